# SPDX-License-Identifier: Apache-2.0
"""Who wrote whose rows under which epoch: the proof that no shard ever had two owners.

Each node tells a file (`cluster.write_log`) what it hands to Cassandra's driver, before it does. A
pure function over what all nodes told and what is alive in the archives; nothing here knows a server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Write(NamedTuple):
    """One line of one node."""

    us: int
    """When, µs since 1970; all nodes of a test share a clock."""
    life: int
    """The incarnation; 0: it was on its way out."""
    since: int
    """The epoch at which it got the shard."""
    shard: int
    owner: str
    """Whose rows, a bare JID."""
    ids: tuple[int, ...]
    """Messages that are about to be sent if the gate lets them; empty: rows are sent, whichever."""


def read(lines: Iterable[str]) -> list[Write]:
    """The writes of a node's file.

    Left out: a last line that was cut by the node's death, and what is written at epoch 0, which is
    rows of domains, and those of a shard that is being taken up.
    """
    found = []
    for line in lines:
        if not line.endswith("\n"):
            continue
        told = json.loads(line)
        if told["since"] == 0:
            continue
        ids = tuple(told["ids"])
        found.append(Write(*(told[name] for name in Write._fields[:-1]), ids))
    return found


def judge_writes(writes: Sequence[Write], alive: Mapping[str, Iterable[int]]) -> list[str]:
    """What is wrong with the writes of all nodes; empty: nothing.

    `alive` are the ids of the messages that readers find, by owner; owners that nobody looked at are
    left out of it. Wrong are: a shard written by two processes under one epoch; a message that a former
    owner sent when the next one had written already, and that is alive all the same; and one of a
    former owner above one of the next, in one archive.
    """
    return _two_owners(writes) + _late(writes, alive) + _mixed(writes, alive)


def late_writes(writes: Sequence[Write]) -> list[Write]:
    """Those that a former owner sent when the next one had written already; all must be dead."""
    first: dict[int, dict[int, int]] = {}
    for one in writes:
        if not one.ids:
            times = first.setdefault(one.shard, {})
            times[one.since] = min(times.get(one.since, one.us), one.us)
    return [
        one
        for one in writes
        if any(since > one.since and at < one.us for since, at in first.get(one.shard, {}).items())
    ]


def _two_owners(writes: Sequence[Write]) -> list[str]:
    lives: dict[tuple[int, int], set[int]] = {}
    for one in writes:
        if not one.ids and one.life:
            lives.setdefault((one.shard, one.since), set()).add(one.life)
    return [
        f"shard {shard} was written at epoch {since} by {sorted(found)}"
        for (shard, since), found in lives.items()
        if len(found) > 1
    ]


def _late(writes: Sequence[Write], alive: Mapping[str, Iterable[int]]) -> list[str]:
    living = {owner: set(ids) for owner, ids in alive.items()}
    return [
        f"{one.owner}: {id_} of epoch {one.since} came late and is alive"
        for one in late_writes(writes)
        for id_ in one.ids
        if id_ in living.get(one.owner, ())
    ]


def _mixed(writes: Sequence[Write], alive: Mapping[str, Iterable[int]]) -> list[str]:
    since: dict[tuple[str, int], int] = {}
    for one in writes:
        for id_ in one.ids:
            since[one.owner, id_] = max(one.since, since.get((one.owner, id_), 0))
    wrong = []
    for owner, ids in alive.items():
        last = 0
        for id_ in sorted(ids):
            epoch = since.get((owner, id_), last)
            if epoch < last:
                wrong.append(f"{owner}: {id_} of epoch {epoch} lies above one of epoch {last}")
            last = max(last, epoch)
    return wrong
