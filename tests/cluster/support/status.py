# SPDX-License-Identifier: Apache-2.0
"""What `antiphon cluster status --json` says, as far as the tests look at it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from .node import Node

SHARDS = 4_096


class NoStatus(AssertionError):
    """The command failed; the message is what it said."""


@dataclass(frozen=True)
class Status:
    """How one node sees the cluster."""

    node: str
    stage: str
    epoch: int
    leader: str
    is_frozen: bool
    members: dict[str, str]
    """States by name."""
    incarnations: dict[str, int]
    served: int
    """Shards that this node serves."""
    coming: int
    going: int
    by_node: dict[str, int]
    sessions: int
    raw: dict[str, object] = field(repr=False, default_factory=dict)

    @property
    def is_at_rest(self) -> bool:
        """Nothing moves, here at least."""
        return self.coming == 0 and self.going == 0


def read(text: str) -> dict[str, Status]:
    """What each node that answered says, by name. Raises `NoStatus`."""
    try:
        document = json.loads(text)
        said = document["nodes"]
        return {str(name): _status(one) for name, one in said.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoStatus(f"{error!r} in {text[:400]!r}") from error


def _status(found: dict[str, object]) -> Status:
    members = cast("list[dict[str, object]]", found["members"])
    shards = cast("dict[str, object]", found["shards"])
    return Status(
        node=str(found["node"]),
        stage=str(found["stage"]),
        epoch=_whole(found["epoch"]),
        leader=str(found.get("leader") or ""),
        is_frozen=bool(found.get("is_frozen")),
        members={str(one["id"]): str(one["state"]).lower() for one in members},
        incarnations={str(one["id"]): _whole(one["incarnation"]) for one in members},
        served=_whole(shards["served"]),
        coming=_whole(shards["coming"]),
        going=_whole(shards.get("going", 0)),
        by_node={k: _whole(v) for k, v in cast("dict[str, object]", shards["by_node"]).items()},
        sessions=_whole(found.get("sessions", 0)),
        raw=found,
    )


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value


def seen_from(node: Node) -> dict[str, Status]:
    """What that node and the members that it knows say. Raises `NoStatus`."""
    done = node.command("cluster", "status", "--json", timeout_s=20)
    if not done.stdout.strip():
        raise NoStatus(f"{node.name}: {done.stderr.strip() or 'says nothing'}")
    return read(done.stdout)


def of(nodes: Iterable[Node]) -> dict[str, Status]:
    """How each of these sees the cluster; those that do not answer are left out.

    Raises `NoStatus` where nobody does.
    """
    wanted = {node.name: node for node in nodes}
    found: dict[str, Status] = {}
    fault = "nobody was asked"
    for name, node in wanted.items():
        if name not in found:
            try:
                found = {**seen_from(node), **found}
            except NoStatus as error:
                fault = str(error)
    if not found:
        raise NoStatus(fault)
    return {name: one for name, one in found.items() if name in wanted}
