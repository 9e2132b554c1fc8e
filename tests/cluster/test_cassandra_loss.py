# SPDX-License-Identifier: Apache-2.0
"""Without Cassandra delivery goes on for a while, acknowledgements wait, and nothing is lost."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import note, repetitions, seconds, under_load

OUTAGE_S = 12.0
GRACE_S = 1.0
"""What was under way when the store went may still be acknowledged."""
RECOVERY_S = 30.0
GROWTH_BYTES = 256 * 1024 * 1024
"""The budget of a node for what is delivered and not yet saved."""


async def test_cassandra_frozen_under_load_loses_nothing_and_acknowledges_nothing_meanwhile(
    site: Site,
) -> None:
    outage_s = seconds("STORE", OUTAGE_S)
    async with under_load(site, users=150) as trial:
        for _ in range(repetitions(1)):
            await asyncio.sleep(2.0)
            memory = {node.name: node.memory_bytes() for node in site.up}
            site.store.pause()
            await asyncio.sleep(GRACE_S)
            before, seen = len(trial.ledger.acknowledged), len(trial.load.sights)
            await asyncio.sleep(outage_s - GRACE_S)
            acknowledged = len(trial.ledger.acknowledged) - before
            delivered = len(trial.load.sights) - seen
            grown = max(node.memory_bytes() - memory[node.name] for node in site.up)
            site.store.resume()
            begun, latest = time.monotonic(), len(trial.ledger.acknowledged)
            while len(trial.ledger.acknowledged) == latest:
                assert time.monotonic() - begun < RECOVERY_S, "nothing is acknowledged again"
                await asyncio.sleep(0.1)
            note("delivered while Cassandra was frozen", "messages", delivered)
            note("acknowledged again after Cassandra was back", "s", time.monotonic() - begun)
            assert acknowledged == 0, f"{acknowledged} acknowledged that were kept nowhere"
            assert delivered > 0, "delivery stopped with the store"
            assert grown < GROWTH_BYTES
            await trial.load.all_in()
    assert not trial.load.errors, f"errors: {trial.load.errors[:3]}"


async def test_a_node_killed_while_cassandra_is_frozen_loses_nothing_acknowledged(
    site: Site,
) -> None:
    async with under_load(site, users=150) as trial:
        for _ in range(repetitions(1)):
            await asyncio.sleep(1.0)
            site.store.pause()
            await asyncio.sleep(3.0)
            site["b"].kill()
            await asyncio.sleep(1.0)
            site.store.resume()
            await asyncio.to_thread(site["b"].start)
            await asyncio.to_thread(site.wait_settled)
            await trial.load.all_in()
    assert trial.load.drops, "nobody was on the node that was killed"
