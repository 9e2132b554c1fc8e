# SPDX-License-Identifier: Apache-2.0
"""K1: a node killed under load loses, doubles and reorders nothing that was acknowledged."""

from __future__ import annotations

import asyncio

from cluster.support.counters import handovers
from cluster.support.site import Site
from cluster.support.trial import dice, note, repetitions, under_load


async def test_k1_killed_nodes_lose_double_and_reorder_nothing(site: Site) -> None:
    rolls = dice()
    async with under_load(site, pollers=6) as trial:
        for _ in range(repetitions(3)):
            await asyncio.sleep(rolls.uniform(0.5, 2.5))
            victim = site[rolls.choice(sorted(site.nodes))]
            others = [node for node in site.nodes.values() if node is not victim]
            shards = (await asyncio.to_thread(site.statuses))[victim.name].served
            before = await asyncio.to_thread(handovers, others)
            victim.kill()
            await trial.load.all_in()
            await asyncio.sleep(rolls.uniform(0.5, 2.0))
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(site.wait_settled)
            moved = (await asyncio.to_thread(handovers, others)).since(before)
            assert (moved.taken_unclean, moved.dropped) == (shards, 0), moved
            back = await asyncio.to_thread(handovers, [victim])
            assert moved.released == back.taken_clean, f"{moved}; {back}"
            assert not back.taken_unclean, f"taken from the living: {back}"
    assert trial.load.drops, "no kill cut anybody off"
    note("sent again by clients", "messages", trial.ledger.repeated)
    # Not wrong, since nodes died: see their definitions.
    note("given twice to one session, under one id", "messages", len(trial.repeats))
    note("given behind a later one of the archive", "messages", len(trial.late))
    note("never given to a client, only kept", "messages", len(trial.missed))
