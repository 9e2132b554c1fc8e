# SPDX-License-Identifier: Apache-2.0
"""K2: users of a killed node bind on another at once, and nothing is left of the old session."""

from __future__ import annotations

import asyncio

from cluster.support.site import Site
from cluster.support.trial import note, number, repetitions, under_load
from support.client import Client
from support.xml import message

BIND_S = 1.0
"""Infrastructure §2.4; the median, since a hundred come at once to two processors."""
WORST_S = 6.0


async def test_k2_users_of_a_killed_node_bind_elsewhere_at_once(site: Site) -> None:
    async with under_load(site, users=150) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(1.0)
            site["b"].kill()
            await trial.load.all_in()
            await asyncio.to_thread(site["b"].start)
            await asyncio.to_thread(site.wait_settled)
    gaps = sorted(drop.gap_s for drop in trial.load.drops if drop.bound_at)
    assert gaps, "nobody was on the node that was killed"
    median, worst = gaps[len(gaps) // 2], gaps[-1]
    note("bound elsewhere after kill -9", "s", *gaps)
    assert median < number("CHAOS_BIND_S", BIND_S)
    assert worst < number("CHAOS_BIND_WORST_S", WORST_S)


async def test_k2_the_same_full_jid_is_bound_elsewhere_and_gets_what_is_sent(site: Site) -> None:
    owner, other = await asyncio.to_thread(site.strangers, 2)
    for _ in range(repetitions(2)):
        old = await site.online(site["b"], owner, "phone", sm=True)
        friend = await site.online(site["a"], other, "desk")
        site["b"].kill()
        new = Client(site["c"].door, owner)
        await asyncio.wait_for(new.login("phone"), BIND_S * 3)
        await new.sm_enable()
        assert new.jid == old.jid
        await new.online()
        # The old stream's id is worth nothing: its node has taken the state along.
        assert new.sm is not None
        assert old.sm is not None
        assert new.sm.id != old.sm.id
        late = Client(site["c"].door, owner)
        await late.negotiate()
        await late.authenticate("PLAIN")
        assert (await late.sm_resume(old)).name == "failed"
        await late.close()
        friend.send(message(new.jid, "are you there?", type="chat", id="q1"))
        await new.expect("message", id="q1")
        await friend.expect_nothing("message", type="error", within_s=0.3)
        for client in (new, friend):
            await client.close()
        await asyncio.to_thread(site["b"].start)
        await asyncio.to_thread(site.wait_settled)
