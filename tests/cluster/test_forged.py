# SPDX-License-Identifier: Apache-2.0
"""Frames that are forged, stale or broken are dropped, counted and told of; nothing follows from them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.support import forger
from cluster.support.forger import Answer, Forger
from cluster.support.homes import homes
from cluster.support.site import Site
from support.certs import KeyPair
from support.client import Client
from support.xml import message

REFUSED = "antiphon_cluster_refused_frames_total"


class Victim:
    """A user who lives at a, is connected there, and is sent forged messages."""

    def __init__(self, site: Site, client: Client, shard: int) -> None:
        self.site, self.client, self.shard = site, client, shard

    def unit(self, id_: str) -> bytes:
        """A message for this user that seems to come from another."""
        return forger.route(self.shard, "somebody@cluster.example/x", self.client.jid, id_)

    async def got_nothing(self, id_: str) -> None:
        """Asserts that it did not come."""
        await self.client.expect_nothing("message", id=id_, within_s=1.0)


async def _victim(site: Site) -> Victim:
    people = await asyncio.to_thread(site.strangers, 12)
    found = await homes(site, people)
    one = next(person for person in people if found[person.jid].node == "a")
    client = await site.online(site["a"], one, "victim")
    return Victim(site, client, found[one.jid].shard)


async def _counted(site: Site, words: str, act: Callable[[], Awaitable[None]]) -> None:
    """Asserts that a counts what is done, and says why it was refused."""
    a = site["a"]
    before, log = await asyncio.to_thread(a.metric, REFUSED), a.log_size
    await act()
    for _ in range(30):
        after = await asyncio.to_thread(a.metric, REFUSED)
        if after > before and words in a.log_since(log):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"counted {after - before}; not told: {words}\n{a.log_since(log)}")


def _lives(site: Site) -> dict[str, int]:
    return site.statuses([site["a"]])["a"].incarnations


async def _refused_and_dropped(
    victim: Victim, one: Forger, reason: int, words: str, id_: str
) -> None:
    """Asserts that a stream is refused, and that what is said on it all the same goes nowhere."""

    async def act() -> None:
        answer = await asyncio.to_thread(one.open)
        assert answer.reason == reason, answer
        assert words in answer.refused
        one.say(1, 1, victim.unit(id_))
        await victim.got_nothing(id_)

    try:
        await _counted(victim.site, words, act)
    finally:
        one.close()


async def test_a_node_that_gives_the_name_of_another_is_refused_and_its_frames_go_nowhere(
    site: Site,
) -> None:
    victim, lives = await _victim(site), await asyncio.to_thread(_lives, site)
    pair: KeyPair = site.authority.node("z")
    one = Forger(site["a"], pair, "b", lives["b"], lives["a"])
    await _refused_and_dropped(victim, one, forger.CERTIFICATE, "the hello says", "forged")
    await _still_one_server(site, victim)


async def test_what_a_node_says_that_never_joined_is_counted_and_goes_nowhere(site: Site) -> None:
    victim, lives = await _victim(site), await asyncio.to_thread(_lives, site)
    one = Forger(site["a"], site.authority.node("z"), "z", max(lives.values()) + 7, lives["a"])
    try:
        before = await asyncio.to_thread(site["a"].metric, REFUSED)
        # It may have joined a moment ago, so its stream is not refused; but no map knows it.
        answer = await asyncio.to_thread(one.open)
        one.say(answer.connection, answer.received + 1, victim.unit("stranger"))
        await victim.got_nothing("stranger")
        assert await asyncio.to_thread(site["a"].metric, REFUSED) > before, "not counted"
    finally:
        one.close()
    await _still_one_server(site, victim)


async def test_frames_of_a_former_life_are_refused_and_those_that_do_not_read_end_the_stream(
    site: Site,
) -> None:
    victim, lives = await _victim(site), await asyncio.to_thread(_lives, site)
    b = site["b"]
    # The real one says nothing meanwhile, and dies before it goes on.
    b.freeze()
    true = Forger(site["a"], b.identity, "b", lives["b"], lives["a"])
    try:
        answer = await asyncio.to_thread(true.open)
        assert not answer.refused, f"a node's own words are refused: {answer}"
        await _what_a_node_says_comes(victim, true, answer)
        await _broken_frames_end_it(victim, true, answer)
    finally:
        true.close()
        b.kill()
    await asyncio.to_thread(b.start)
    await asyncio.to_thread(site.wait_settled)
    stale = Forger(site["a"], b.identity, "b", lives["b"], lives["a"])
    await _refused_and_dropped(victim, stale, forger.STALE, "of node b is over", "stale")
    await _still_one_server(site, victim)


async def _what_a_node_says_comes(victim: Victim, true: Forger, answer: Answer) -> None:
    """What shows that the others are dropped for who says them, not for what they are."""
    true.say(answer.connection, answer.received + 1, victim.unit("true"))
    await victim.client.expect("message", id="true")
    # As if it had come before: known by its number.
    true.say(answer.connection, answer.received + 1, victim.unit("again"))
    await victim.got_nothing("again")


async def _broken_frames_end_it(victim: Victim, true: Forger, answer: Answer) -> None:
    async def act() -> None:
        garbled = forger.number(1_000) + victim.unit("broken")
        true.say_raw(answer.connection, answer.received + 2, 2, garbled)
        said = await asyncio.to_thread(true.bye)
        assert said.reason == forger.BREACH, said
        true.say(answer.connection, answer.received + 2, victim.unit("behind"))
        await victim.got_nothing("broken")
        await victim.got_nothing("behind")

    await _counted(victim.site, "does not read", act)


async def test_a_node_of_a_version_too_far_off_is_refused_by_those_inside(site: Site) -> None:
    victim, lives = await _victim(site), await asyncio.to_thread(_lives, site)
    pair = site.authority.node("z")
    words = "speaks version 3 of the protocol, this one"

    async def probes() -> None:
        looking = Forger(site["a"], pair, "z", 0, 0, protocol=3)
        answer = await asyncio.to_thread(looking.probe)
        assert answer.reason == forger.PROTOCOL, answer
        assert words in answer.refused

    await _counted(site, words, probes)
    # A neighbour is let in, as in any rolling upgrade.
    neighbour = Forger(site["a"], pair, "z", 0, 0, protocol=2)
    assert not (await asyncio.to_thread(neighbour.probe)).refused
    one = Forger(site["a"], pair, "z", max(lives.values()) + 7, lives["a"], protocol=3)
    answer = await asyncio.to_thread(one.open)
    one.close()
    assert answer.reason == forger.PROTOCOL, answer
    await _still_one_server(site, victim)


async def _still_one_server(site: Site, victim: Victim) -> None:
    """Asserts that the cluster is as it was."""
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])
    (account,) = await asyncio.to_thread(site.strangers, 1)
    other = await site.online(site["b"], account, "desk")
    other.send(message(victim.client.jid, "still there?", type="chat", id="still"))
    await victim.client.expect("message", id="still")
    assert not victim.client.eof
    for client in (other, victim.client):
        await client.close()
