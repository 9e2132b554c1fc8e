# SPDX-License-Identifier: Apache-2.0
"""What `antiphon cluster status --json` says, as far as the tests look at it."""

from __future__ import annotations

import json
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


def read(text: str) -> Status:
    """The status in the output of the command. Raises `NoStatus`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise NoStatus(f"not JSON: {text[:200]!r}") from error
    if not isinstance(document, dict):
        raise NoStatus(f"no cluster: {text[:200]!r}")
    inner = document.get("status", document)  # the command may put its own findings around it
    try:
        return _status(cast("dict[str, object]", inner))
    except (KeyError, TypeError) as error:
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
        members={str(one["id"]): str(one["state"]) for one in members},
        incarnations={str(one["id"]): _whole(one["incarnation"]) for one in members},
        served=_whole(shards["served"]),
        coming=_whole(shards["coming"]),
        going=_whole(shards.get("going", 0)),
        by_node={k: _whole(v) for k, v in cast("dict[str, object]", shards["by_node"]).items()},
        sessions=_whole(found.get("sessions", 0)),
        raw=found,
    )


def _whole(value: object) -> int:
    assert isinstance(value, int), f"{value!r} is no number"
    return value


def of(node: Node) -> Status:
    """How that node sees the cluster. Raises `NoStatus`."""
    done = node.command("cluster", "status", "--json", timeout_s=20)
    if done.returncode != 0:
        raise NoStatus(f"{node.name}: {done.stderr.strip() or done.stdout.strip()}")
    return read(done.stdout)
