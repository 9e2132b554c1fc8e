# SPDX-License-Identifier: Apache-2.0
"""K5: no archive shows an id lower than one that it has shown before."""

from __future__ import annotations

import asyncio

from cluster.support.site import Site
from cluster.support.trial import dice, repetitions, under_load

POLLERS = 24


async def test_k5_pollers_of_archives_never_miss_an_id_while_nodes_die(site: Site) -> None:
    rolls = dice()
    async with under_load(site, users=60, per_second=150, pollers=POLLERS) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(rolls.uniform(1.0, 2.0))
            victim = site[rolls.choice(sorted(site.nodes))]
            victim.kill()
            await asyncio.sleep(3.0)
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(site.wait_settled)
    served = sum(len(poll.ids) for poll in trial.history.polls)
    assert served > 100, "the pollers were given next to nothing"
    assert all(poll.is_to_the_end for poll in trial.history.polls)
