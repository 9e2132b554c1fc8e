# SPDX-License-Identifier: Apache-2.0
"""K4: traffic of users whose home died waits a little, then goes on in order; nothing bounces."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import note, repetitions, under_load

LIMIT_S = 15.0


async def test_k4_messages_to_users_of_a_dead_home_wait_and_then_flow_in_order(site: Site) -> None:
    waits = []
    # Nobody is connected to the node that dies: every session lives on, a third of the homes move.
    async with under_load(site, nodes=[site["a"], site["c"]]) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(2.0)
            begun = time.monotonic()
            site["b"].kill()
            await asyncio.sleep(LIMIT_S / 2)
            waits.append(trial.latencies(begun, time.monotonic())[-1])
            await asyncio.to_thread(site["b"].start)
            await asyncio.to_thread(site.wait_settled)
    note("longest way of a message while its home died", "s", *waits)
    assert not trial.load.drops, f"sessions elsewhere ended: {trial.load.drops[:3]}"
    assert not trial.load.errors, f"stanzas bounced: {trial.load.errors[:3]}"
    assert not trial.missed, f"not delivered to a client that was there: {trial.missed[:5]}"
    assert max(waits) < LIMIT_S
