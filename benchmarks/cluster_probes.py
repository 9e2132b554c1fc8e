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
from cluster_stage import Three, accounts

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
SITTERS = 200


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


class _Sitters:
    """Idle sessions of the node that goes: written to meanwhile, resumed elsewhere afterwards."""

    def __init__(self, site: Site, accounts: Sequence[Account]) -> None:
        self._site, self._accounts = site, accounts
        self._sat: list[Client] = []
        self._writer = Client(site["a"].door, accounts[0])

    async def enter(self) -> None:
        """All on the node, available, each given one message."""
        await self._writer.login("writer")
        await self._writer.sm_enable()
        for account in self._accounts:
            client = Client(self._site["b"].door, account)
            await client.login("sitter")
            await client.sm_enable()
            await client.online()
            self._sat.append(client)
        self.write("before")
        for client in self._sat:
            await client.expect("message", id="before")

    def write(self, text: str) -> None:
        """A message to each; the text is its id, too."""
        for client in self._sat:
            self._writer.send(message(client.jid, text, type="chat", id=text))

    async def lost(self) -> tuple[int, int]:
        """How many of the messages `during` they are not given once, and how many do not resume."""
        await self._writer.sm_settle()
        lost = not_resumed = 0
        for number, (client, account) in enumerate(zip(self._sat, self._accounts, strict=True)):
            await client.expect_end()
            back = Client(self._site["ac"[number % 2]].door, account)
            await back.negotiate()
            await back.authenticate("PLAIN")
            not_resumed += (await back.sm_resume(client)).name != "resumed"
            # Behind it comes nothing more of the time before.
            await back.sync()
            both = [*client.inbox, *back.drain()]
            lost += len([e for e in both if e.name == "message" and e.id == "during"]) != 1
            for one in (client, back):
                one.abort()
        self._writer.abort()
        return lost, not_resumed


@dataclass(frozen=True)
class Drained:
    """One drain under load."""

    took_s: float
    lost: int
    """Messages that were acknowledged and that no client was given."""
    resumed: int
    """Of those who write. The idle ones resume all, or it is an error."""
    not_resumed: int


async def _drained(site: Site, users: int, idle: Sequence[Account]) -> Drained:
    accounts = await asyncio.to_thread(site.crowd, users)
    nodes = list(site.nodes.values())
    load = Load(accounts, doors(nodes, accounts[0].domain), per_second=100, always_resume=True)
    sitters = _Sitters(site, idle)
    await sitters.enter()
    load.start()
    await load.all_in()
    await asyncio.sleep(2.0)
    begun = time.monotonic()
    site["b"].terminate()
    sitters.write("during")
    code = await asyncio.to_thread(site["b"].wait_end, 90.0)
    took = time.monotonic() - begun
    if code != 0:
        raise ServerError(f"the node that was drained ended with {code}")
    await load.all_in()
    await load.settle()
    await load.quiesce()
    lost, not_resumed = await sitters.lost()
    if not_resumed:
        raise ServerError(f"{not_resumed} of {len(idle)} idle sessions were not resumed")
    lost += len(missed(History(load.ledger, load.sights)))
    await load.close()
    return Drained(took, lost, load.resumed, load.failed_resumptions)


def drain(stand: Three, load: Path, sessions: int, users: int = 60) -> Drained:
    """A node with so many idle sessions with stream management is sent SIGTERM. Raises ServerError.

    Beside them some users write on all nodes and resume, and some idle ones are written to and
    resume once it has ended; what is acknowledged and was never seen counts as lost.
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
            found = asyncio.run(_drained(stand.whole, users, accounts()[:SITTERS]))
        finally:
            idle.kill()
    _healed(stand)
    return found


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
