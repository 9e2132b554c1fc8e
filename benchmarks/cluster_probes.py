# SPDX-License-Identifier: Apache-2.0
"""What `cluster.py` measures with clients of its own: a dead node, a drained one, etcd's writes."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.server import ServerError
from cluster_stage import Three

from cluster.support.load import Load
from cluster.support.node import Node
from cluster.support.records import History, missed
from cluster.support.site import Site, Unsettled
from cluster.support.trial import doors
from support.client import Client, StreamClosed
from support.endpoint import Account
from support.xml import message

BEAT_S = 0.05
GAP_S = 0.5
"""A user whose home answers has a gap below this; what is above was waiting for a new home."""
WATCH_S = 12.0
PROBES = 150


@dataclass
class _Probe:
    """A client on a living node that writes to itself, by way of its home."""

    client: Client
    heard: list[float] = field(default_factory=list)
    ended: float = 0.0

    async def run(self, end: float) -> None:
        """Writes and listens until `end`."""
        number = 0
        while time.monotonic() < end:
            number += 1
            self.client.send(message(self.client.jid, str(number), type="chat"))
            with suppress(AssertionError, StreamClosed):
                await self.client.expect("message", timeout_s=BEAT_S)
                self.heard.append(time.monotonic())
            self.heard += [time.monotonic() for e in self.client.drain() if e.name == "message"]
            await asyncio.sleep(BEAT_S)
        self.ended = time.monotonic()

    def gap_s(self, since: float) -> float:
        """The longest time without an answer, from `since` to the end of the watch."""
        times = [since, *(at for at in self.heard if at >= since), self.ended]
        gaps = [after - before for before, after in pairwise(times)]
        return max(gaps, default=float("inf"))


async def _enter(node: Node, account: Account) -> _Probe:
    client = Client(node.door, account)
    await client.negotiate()
    await client.authenticate("PLAIN")
    await client.bind("probe")
    await client.online()
    return _Probe(client)


async def _killed(site: Site, accounts: Sequence[Account]) -> list[float]:
    nodes = [site["a"], site["c"]]
    probes = [await _enter(nodes[n % 2], account) for n, account in enumerate(accounts)]
    begun = time.monotonic()
    tasks = [asyncio.create_task(probe.run(begun + WATCH_S)) for probe in probes]
    await asyncio.sleep(2.0)
    site["b"].kill()
    killed = time.monotonic()
    await asyncio.gather(*tasks)
    for probe in probes:
        probe.client.abort()
    gaps = [probe.gap_s(killed) for probe in probes]
    return [gap for gap in gaps if gap > GAP_S]


def kills(stand: Three, accounts: Sequence[Account], rounds: int) -> list[float]:
    """Seconds until the homes of a killed node's users answered again, each user of each round.

    The users' sockets are on other nodes. Raises ServerError where nobody was affected.
    """
    found: list[float] = []
    for _ in range(rounds):
        found += asyncio.run(_killed(stand.whole, accounts[:PROBES]))
        _healed(stand)
    if not found:
        raise ServerError("no home was on the node that was killed")
    return sorted(found)


def _healed(stand: Three) -> None:
    try:
        stand.whole.heal()
    except Unsettled as error:
        raise ServerError(str(error)) from error


@dataclass(frozen=True)
class Drained:
    """One drain under load."""

    took_s: float
    lost: int
    """Messages that were acknowledged and that no client was given."""
    resumed: int
    not_resumed: int


async def _drained(site: Site, users: int) -> tuple[float, Load, int]:
    accounts = await asyncio.to_thread(site.crowd, users)
    nodes = list(site.nodes.values())
    load = Load(accounts, doors(nodes, accounts[0].domain), per_second=100, always_resume=True)
    load.start()
    await load.all_in()
    await asyncio.sleep(2.0)
    begun = time.monotonic()
    site["b"].terminate()
    await asyncio.to_thread(site["b"].wait_end, 90.0)
    took = time.monotonic() - begun
    await load.all_in()
    await load.settle()
    await load.quiesce()
    unseen = len(missed(History(load.ledger, load.sights)))
    await load.close()
    return took, load, unseen


def drain(stand: Three, load: Path, sessions: int, users: int = 60) -> Drained:
    """A node with so many idle sessions with stream management is sent SIGTERM. Raises ServerError.

    Beside them some users write on all nodes and resume; what is acknowledged and was never seen
    counts as lost.
    """
    at = [stand.addresses[1]]
    words = ["idle", "--sm", "5", "--connections", str(sessions), "--settle", "200", "--gate", "1"]
    with subprocess.Popen(
        stand.command(*words, load=load, at=at),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as idle:  # fmt: skip
        try:
            assert idle.stdin is not None
            assert idle.stderr is not None
            idle.stdin.write("go\n")
            idle.stdin.flush()
            said = idle.stderr.readline()
            if said.strip() != "ready":
                raise ServerError(f"{sessions} sessions do not come in: {said.strip()}")
            took, crowd, unseen = asyncio.run(_drained(stand.whole, users))
        finally:
            idle.kill()
    _healed(stand)
    return Drained(took, unseen, crowd.resumed, crowd.failed_resumptions)


def writes(stand: Three, arguments: Sequence[str], load: Path, settle_s: float) -> float:
    """etcd's writes in a second while the generator runs. Raises ServerError."""
    with subprocess.Popen(
        stand.command(*arguments, load=load),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as busy:  # fmt: skip
        try:
            time.sleep(settle_s)
            begun, before = time.monotonic(), stand.revision()
            while busy.poll() is None and time.monotonic() - begun < 15.0:
                time.sleep(0.5)
            took, after = time.monotonic() - begun, stand.revision()
            if took < 3.0:
                said = "" if busy.stderr is None else busy.stderr.read()
                raise ServerError(f"the load ended after {took:.1f} s: {said.strip()}")
        finally:
            busy.kill()
    return (after - before) / took
