# SPDX-License-Identifier: Apache-2.0
"""K2: users of a killed node bind on another at once, and nothing is left of the old session."""

from __future__ import annotations

import asyncio
import time
from operator import itemgetter

from cluster.support.site import Site
from cluster.support.trial import note, number, repetitions, under_load
from support.client import Client
from support.xml import message

BIND_S = 1.0
"""Infrastructure §2.4; of nine in ten whose homes live, since a hundred come at once to two
processors."""
TAKEN_UP_S = 3.0
"""Of those whose home died as well, and has to be taken up first."""
WORST_S = 6.0


async def test_k2_users_of_a_killed_node_bind_elsewhere_at_once(site: Site) -> None:
    lost: list[tuple[float, set[str]]] = []
    async with under_load(site, users=150) as trial:
        for at in range(repetitions(2)):
            # Another one each time: the users of the last one are not back on it.
            victim, written = site["bca"[at % 3]], site.writes_so_far()
            await asyncio.sleep(4.0)
            begun = time.monotonic()
            victim.kill()
            homeless = await asyncio.to_thread(_lived_at, site, victim.name, written)
            lost.append((begun, homeless))
            # A connection's end is noticed a moment later.
            await asyncio.sleep(1.0)
            await trial.load.all_in()
            await asyncio.to_thread(victim.start)
            await asyncio.to_thread(site.wait_settled)
    gaps: dict[bool, list[float]] = {False: [], True: []}
    for drop in trial.load.drops:
        account = trial.load.people[drop.user].account
        _, homeless = max((one for one in lost if one[0] <= drop.at), key=itemgetter(0))
        assert drop.bound_at, f"{account.jid} never came back"
        gaps[account.jid in homeless].append(drop.gap_s)
    assert all(gaps.values()), "nobody was on the node that was killed"
    _judge("their homes alive", gaps[False], "BIND", BIND_S)
    _judge("their homes dead", gaps[True], "BIND_HOMELESS", TAKEN_UP_S)


def _lived_at(site: Site, name: str, written: dict[str, int]) -> set[str]:
    """Users for whom this node wrote before it died."""
    return {one.owner for one in site[name].writes(written.get(name, 0))}


def _judge(who: str, found: list[float], name: str, limit_s: float) -> None:
    gaps = sorted(found)
    note(f"bound elsewhere after kill -9, {who}", "s", *gaps)
    p90, p99, worst = gaps[len(gaps) * 9 // 10], gaps[len(gaps) * 99 // 100], gaps[-1]
    print(f"K2: {who}: {len(gaps)}, p90 {p90:.2f} s, p99 {p99:.2f} s, most {worst:.2f} s")
    assert p90 <= number(f"CHAOS_{name}_S", limit_s)
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
