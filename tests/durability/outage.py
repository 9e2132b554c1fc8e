# SPDX-License-Identifier: Apache-2.0
"""What a node does while its store is slow or does not answer, and when it answers again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from support import ns
from support.cassandra import Cassandra
from support.client import Client
from support.endpoint import Account
from support.xml import E, message

from . import disk
from .crowd import Crowd
from .ledger import Findings
from .node import Mortal
from .trials import judge_wire

BEAT_S = 0.2
BEATS = 60
"""Of one outage at most: who has 64 KiB that are not kept, some 90 messages in two archives, is read
no further until they are."""
SLOW_S = 0.5
"""How long a slow replica does nothing at a time."""
GRACE_S = 1.0
"""What was under way when the store went may still be acknowledged or delivered."""


@dataclass
class Outage:
    """What happened while the store was away."""

    delivered_s: list[float] = field(default_factory=list)
    """How long each message took that was written meanwhile."""
    acknowledged: int = 0
    """Messages acknowledged meanwhile: must be none."""
    grown_bytes: int = 0
    """What the node's memory grew by."""
    recovered_s: float = 0.0
    """From the store's return until all was acknowledged."""
    findings: Findings = field(default_factory=Findings)


async def pause(
    node: Mortal, ring: Cassandra, crowd: Crowd, pair: tuple[Account, Account], seconds: float
) -> Outage:
    """Freezes the only Cassandra under load for some seconds; a pair goes on to chat meanwhile."""
    found = Outage()
    crowd.start(node.door)
    a, b = [await _online(node, account) for account in pair]
    await asyncio.sleep(2.0)
    memory = node.memory_bytes()
    ring.pause()
    try:
        await asyncio.sleep(GRACE_S)
        before = len(crowd.ledger.acknowledged)
        end = time.monotonic() + seconds - GRACE_S
        while time.monotonic() < end:
            await _beat(a, b, found)
            await asyncio.sleep(max(BEAT_S, seconds / BEATS))
        found.acknowledged = len(crowd.ledger.acknowledged) - before
        found.grown_bytes = node.memory_bytes() - memory
    finally:
        ring.resume()
    begun = time.monotonic()
    await crowd.settle(120.0)
    found.recovered_s = time.monotonic() - begun
    accounts = [member.account for member in crowd.members]
    await crowd.close()
    found.findings = await judge_wire(node, accounts, crowd.ledger)
    for client in (a, b):
        await client.close()
    return found


async def _online(node: Mortal, account: Account) -> Client:
    client = Client(node.door, account)
    client.auto_ack = True
    await client.login("desk")
    await client.sm_enable()
    await client.online()
    return client


async def _beat(a: Client, b: Client, found: Outage) -> None:
    begun = time.monotonic()
    id_ = a.send(message(b.bare, f"beat {begun}", type="chat", id=a.next_id()))
    await b.expect("message", id=id_)
    found.delivered_s.append(time.monotonic() - begun)
    a.send(E("r", ns.SM))


@dataclass
class Beat:
    """One message: when it came to its receiver and when its sender knew that it is kept."""

    delivered_s: float
    acknowledged_s: float


async def crawl(node: Mortal, pair: tuple[Account, Account], sync_s: float) -> list[Beat]:
    """Chats on a disk of which every sync takes that long."""
    node.stop()
    node.extra_env = disk.environment(
        disk.build(node.folder), node.data, node.folder / "protocol", sync_s=sync_s
    )
    node.again()
    a, b = [await _online(node, account) for account in pair]
    beats = []
    for _ in range(6):
        assert a.sm is not None
        begun = time.monotonic()
        id_ = a.send(message(b.bare, f"beat {begun}", type="chat", id=a.next_id()))
        await b.expect("message", id=id_)
        delivered = time.monotonic()
        a.send(E("r", ns.SM))
        while a.sm.acked < a.sm.sent:
            await a.expect("a", timeout_s=10)
        beats.append(Beat(delivered - begun, time.monotonic() - begun))
    for client in (a, b):
        await client.close()
    return beats


async def slow_one(node: Mortal, ring: Cassandra, crowd: Crowd, seconds: float) -> Findings:
    """One replica of three does nothing for most of the time; the others acknowledge."""
    crowd.start(node.door)
    await asyncio.sleep(2.0)
    before = len(crowd.ledger.acknowledged)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            ring.pause(2)
            await asyncio.sleep(SLOW_S)
            ring.resume(2)
            await asyncio.sleep(SLOW_S / 5)
    finally:
        ring.resume(2)
    assert len(crowd.ledger.acknowledged) > before, "a slow replica holds up everything"
    await crowd.settle(120.0)
    accounts = [member.account for member in crowd.members]
    await crowd.close()
    return await judge_wire(node, accounts, crowd.ledger)


async def lose_one(node: Mortal, ring: Cassandra, crowd: Crowd, seconds: float) -> Findings:
    """Kills one replica of three under load; what is acknowledged meanwhile is kept."""
    crowd.start(node.door)
    await asyncio.sleep(2.0)
    ring.kill(2)
    await asyncio.sleep(seconds)
    before = len(crowd.ledger.acknowledged)
    await asyncio.sleep(3.0)
    assert len(crowd.ledger.acknowledged) > before, "nothing is acknowledged by two of three"
    await crowd.settle(120.0)
    accounts = [member.account for member in crowd.members]
    await crowd.close()
    return await judge_wire(node, accounts, crowd.ledger)
