# SPDX-License-Identifier: Apache-2.0
"""K1: a node killed under load loses, doubles and reorders nothing that was acknowledged."""

from __future__ import annotations

import asyncio

from cluster.support.site import Site
from cluster.support.trial import dice, note, repetitions, under_load


async def test_k1_killed_nodes_lose_double_and_reorder_nothing(site: Site) -> None:
    rolls = dice()
    async with under_load(site, pollers=6) as trial:
        for _ in range(repetitions(3)):
            await asyncio.sleep(rolls.uniform(0.5, 2.5))
            victim = site[rolls.choice(sorted(site.nodes))]
            victim.kill()
            await trial.load.all_in()
            await asyncio.sleep(rolls.uniform(0.5, 2.0))
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(site.wait_settled)
    assert trial.load.drops, "no kill cut anybody off"
    note("sent again by clients", "messages", trial.ledger.repeated)
    # Not wrong, since nodes died: see their definitions.
    note("given twice to one session, under one id", "messages", len(trial.repeats))
    note("given behind a later one of the archive", "messages", len(trial.late))
    note("never given to a client, only kept", "messages", len(trial.missed))
