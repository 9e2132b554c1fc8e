# SPDX-License-Identifier: Apache-2.0
"""K4: traffic of users whose home died waits a little, then goes on in order; nothing bounces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from cluster.support.site import Site
from cluster.support.trial import note, repetitions, under_load
from durability import cassandra_reader
from support.xml import message

LIMIT_S = 15.0
GONE_S = 10.0
"""In which what was given is forgotten by the store."""


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
        await trial.load.settle()
        await trial.load.quiesce()
        left = await _left(site, [person.account.jid for person in trial.load.people])
    note("longest way of a message while its home died", "s", *waits)
    assert not trial.load.drops, f"sessions elsewhere ended: {trial.load.drops[:3]}"
    assert not trial.load.errors, f"stanzas bounced: {trial.load.errors[:3]}"
    assert not trial.missed, f"not delivered to a client that was there: {trial.missed[:5]}"
    assert not trial.repeats, f"given twice: {trial.repeats[:5]}"
    assert not left, f"offline copies that nobody will need: {left}"
    assert max(waits) < LIMIT_S


async def test_the_reader_of_offline_copies_sees_one_that_is_left(site: Site) -> None:
    here, away = await asyncio.to_thread(site.strangers, 2)
    client = await site.online(site["a"], here, "desk", sm=True)
    client.send(message(away.jid, "later", type="chat", id="later"))
    assert client.sm is not None
    while await client.sm_request() < client.sm.sent:
        await asyncio.sleep(0.1)
    points = site.wiring.contact_points
    left = await asyncio.to_thread(
        cassandra_reader.waiting, points, site.keyspace, [here.jid, away.jid]
    )
    assert list(left) == [away.jid]
    assert len(left[away.jid]) == 1
    await client.close()


async def _left(site: Site, owners: Sequence[str]) -> dict[str, list[int]]:
    """What still waits in the store for users who are all there, once it had time to go."""
    wiring, deadline = site.wiring, time.monotonic() + GONE_S
    while True:
        left = await asyncio.to_thread(
            cassandra_reader.waiting, wiring.contact_points, site.keyspace, owners
        )
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.5)
