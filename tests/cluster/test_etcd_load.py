# SPDX-License-Identifier: Apache-2.0
"""etcd's load does not depend on how many users there are, nor on what they do."""

from __future__ import annotations

import asyncio
import random
import time

from cluster.support.site import Site
from cluster.support.trial import note, number
from durability.crowd import Talker
from durability.ledger import Ledger
from support import ns
from support.endpoint import Account, Endpoint
from support.xml import E

SESSIONS = 5_000
AT_ONCE = 24
PER_SECOND = 2.0
"""Writes; the must of the issue."""


async def test_sessions_that_log_in_and_out_write_nothing_to_etcd(site: Site) -> None:
    sessions = int(number("CHAOS_SESSIONS", SESSIONS))
    accounts = await asyncio.to_thread(site.strangers, 100)
    quiet = await _writes(site, 5.0)
    turns = asyncio.Semaphore(AT_ONCE)
    nodes = list(site.nodes.values())

    async def visit(at: int) -> None:
        async with turns:
            await _visit(nodes[at % len(nodes)].door, accounts[at % len(accounts)], at)

    begun, before = time.monotonic(), site.etcd.revision()
    keys = set(site.etcd.keys())
    await asyncio.gather(*(visit(at) for at in range(sessions)))
    took, after = time.monotonic() - begun, site.etcd.revision()
    busy = (after - before) / took
    note(f"etcd writes, {sessions} sessions in {took:.0f} s", "per s", busy)
    note("etcd writes when quiet", "per s", quiet)
    assert busy < PER_SECOND
    assert set(site.etcd.keys()) == keys, "sessions leave keys behind"
    text = b"".join(site.etcd.keys().values())
    assert not any(account.user.encode() in text for account in accounts)


async def _writes(site: Site, seconds: float) -> float:
    before = site.etcd.revision()
    await asyncio.sleep(seconds)
    return (site.etcd.revision() - before) / seconds


async def _visit(door: Endpoint, account: Account, at: int) -> None:
    client = Talker(door, account, Ledger())
    try:
        await client.negotiate()
        await client.authenticate("PLAIN")
        await client.bind(f"r{at}")
        client.send(E("presence", ns.CLIENT))
        if random.random() < 0.5:
            await client.sync()
            await client.close()
    finally:
        client.abort()
