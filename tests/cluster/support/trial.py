# SPDX-License-Identifier: Apache-2.0
"""What the trials share: a load under way, something done to the cluster, the verdict."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from durability.ledger import Ledger
from support.endpoint import Account, Endpoint

from .load import Load
from .node import Node
from .records import Findings, History, judge, late, missed, repeats
from .site import Site
from .verdict import history_of
from .watch import Pollers
from .writes import judge_writes, late_writes

USERS = 300
PER_SECOND = 120.0


def number(name: str, otherwise: float) -> float:
    """A number in the environment, so that `make chaos` can ask for more."""
    return float(os.environ.get(name) or otherwise)


def repetitions(short: int) -> int:
    """How often an invariant is tried: `CHAOS_REPEAT`, or a few times."""
    return int(number("CHAOS_REPEAT", short))


def seconds(name: str, short: float) -> float:
    """How long something lasts: `CHAOS_<name>_S`, or a short time."""
    return number(f"CHAOS_{name}_S", short)


def dice() -> random.Random:
    """Random moments; `CHAOS_SEED` or a new seed, which is printed."""
    seed = int(number("CHAOS_SEED", random.randrange(1_000_000)))
    print(f"seed {seed}")
    return random.Random(seed)


def note(what: str, unit: str, *values: float) -> None:
    """Prints figures, and keeps them for the report of `make chaos` (`CHAOS_FIGURES`, a file)."""
    print(f"{what}: {', '.join(f'{value:.2f}' for value in values)} {unit}")
    name = os.environ.get("CHAOS_FIGURES")
    if name:
        row = {"what": what, "unit": unit, "values": [round(value, 4) for value in values]}
        with Path(name).open("a") as file:
            file.write(json.dumps(row) + "\n")


@dataclass
class Trial:
    """A load, and when it is over what was found."""

    site: Site
    load: Load
    pollers: Pollers | None = None
    findings: Findings = field(default_factory=Findings)
    history: History = field(default_factory=History)
    begun: float = field(default_factory=time.monotonic)
    late_writes: int = 0
    """Words of former owners that came behind one of the next; see `.writes`."""

    @property
    def ledger(self) -> Ledger:
        """What was sent and acknowledged."""
        return self.load.ledger

    @property
    def missed(self) -> list[str]:
        """Kept, and never seen by the receiver's client."""
        return missed(self.history)

    @property
    def repeats(self) -> list[str]:
        """Given twice in one session."""
        return repeats(self.history.sights)

    @property
    def late(self) -> list[str]:
        """Given to a client behind a later message of its archive."""
        return late(self.history)

    def latencies(self, begin: float, end: float) -> list[float]:
        """From writing to seeing, in seconds, sorted; of messages written between two moments."""
        found = []
        for sight in self.load.sights:
            words = sight.body.partition(" ")[0].split(".")
            at = self._sent.get((int(words[0]), int(words[1]), int(words[2])))
            if at is not None and begin <= at < end:
                found.append(sight.at - at)
        return sorted(found)

    @property
    def _sent(self) -> dict[tuple[int, int, int], float]:
        return {tuple(mark): at for mark, at in self.ledger.sent.items()}  # type: ignore[misc]


def doors(nodes: Sequence[Node], domain: str) -> Callable[[int], Endpoint]:
    """Every node in turn."""

    def door(choice: int) -> Endpoint:
        return replace(nodes[choice % len(nodes)].door, domain=domain)

    return door


@asynccontextmanager
async def under_load(
    site: Site,
    *,
    users: int = USERS,
    nodes: Sequence[Node] | None = None,
    per_second: float = PER_SECOND,
    always_resume: bool = False,
    pollers: int = 0,
) -> AsyncIterator[Trial]:
    """A load under way on these nodes (all, unless named); judged when the block is left.

    Raises `AssertionError` where anything was lost, doubled, reordered, delivered to the wrong user
    or given an id that goes back.
    """
    accounts = await asyncio.to_thread(site.crowd, users)
    chosen = list(nodes or site.nodes.values())
    load = Load(
        accounts,
        doors(chosen, accounts[0].domain),
        per_second=per_second,
        seed=int(number("CHAOS_SEED", random.randrange(1_000_000))),
        always_resume=always_resume,
    )
    watching = None
    trial = Trial(site, load)
    written = site.writes_so_far()
    load.start()
    try:
        await load.all_in()
        if pollers:
            watching = Pollers(accounts[:pollers], doors(chosen, accounts[0].domain))
            trial.pollers = watching
            watching.start()
        trial.begun = time.monotonic()
        yield trial
        await load.settle()
        await load.quiesce()
        polls = [] if watching is None else await watching.finish()
        await load.close()
        trial.history = await history_of(site, load, polls)
        trial.findings = judge(trial.history)
        print(f"{load}; {trial.findings}")
        assert not trial.findings, f"{trial.findings}\n{load}"
        await asyncio.to_thread(_judge_writes, trial, accounts, written)
    finally:
        if watching is not None:
            await watching.stop()
        await load.close()


def _judge_writes(trial: Trial, accounts: Sequence[Account], written: Mapping[str, int]) -> None:
    """Asserts that no shard had two owners, by what all nodes have told of their writes."""
    writes = trial.site.writes(written)
    if not writes:
        assert not trial.site.tells_writes, "no node has told of a single write"
        return
    by_store = trial.history.by_store
    alive = {accounts[n].jid: [int(row.id) for row in rows] for n, rows in by_store.items()}
    trial.late_writes = len(late_writes(writes))
    print(f"{len(writes)} words of writes, {trial.late_writes} of them late")
    wrong = judge_writes(writes, alive)
    assert not wrong, f"P2: {len(wrong)} writes: {wrong[:5]}"
