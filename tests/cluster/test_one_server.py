# SPDX-License-Identifier: Apache-2.0
"""Users whose sockets are on different nodes meet one server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
import pytest_asyncio

from cluster.support.site import Site
from cluster.support.watch import befriend
from support import ns
from support.archive import XEP_0430, chat, set_entry, whole
from support.client import Client, SaslFailed
from support.endpoint import Account
from support.xml import E, message, presence

Online = Callable[..., Coroutine[None, None, Client]]


@pytest_asyncio.fixture
async def online(site: Site) -> AsyncIterator[Online]:
    """Makes clients that are cut off when the test ends: `online("a", account, "phone")`."""
    made: list[Client] = []

    async def make(
        node: str, account: Account, resource: str, *, priority: int | None = None, sm: bool = False
    ) -> Client:
        client = await site.online(site[node], account, resource, priority=priority, sm=sm)
        made.append(client)
        return client

    yield make
    for client in made:
        client.abort()


async def pair(site: Site) -> tuple[Account, Account]:
    """Two accounts that no other test has."""
    one, other = await asyncio.to_thread(site.strangers, 2)
    return one, other


async def pushed(client: Client, jid: str, key: str, value: str) -> None:
    """Takes roster pushes for a contact until one says that."""
    while (await client.push(jid)).get(key) != value:
        pass


async def test_messages_reach_every_node_from_every_node_in_order(
    site: Site, online: Online
) -> None:
    # Twelve users on each node: their homes are on all three, so every combination of edge and home
    # is among these ways.
    accounts = await asyncio.to_thread(site.strangers, 36)
    clients = [await online("abc"[n % 3], account, "desk") for n, account in enumerate(accounts)]
    for sender, receiver in itertools.permutations(clients, 2):
        for number in range(2):
            sender.send(message(receiver.jid, f"{sender.user} {number}", type="chat"))
    for receiver in clients:
        expected = 2 * (len(clients) - 1)

        def texts(c: Client = receiver) -> list[str]:
            return [e.body for e in c.inbox if e.name == "message" and e.body is not None]

        await receiver.wait_for(lambda t=texts, n=expected: len(t()) >= n, 20.0, "all messages")  # type: ignore[misc]
        by_sender: dict[str, list[str]] = {}
        for text in texts():
            by_sender.setdefault(text.partition(" ")[0], []).append(text.partition(" ")[2])
        assert set(map(tuple, by_sender.values())) == {("0", "1")}
        assert len(by_sender) == len(clients) - 1


async def test_a_message_to_the_bare_jid_goes_to_the_highest_priority_of_any_node(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    low = await online("a", owner, "low", priority=1)
    high = await online("b", owner, "high", priority=5)
    mute = await online("c", owner, "mute", priority=-1)
    friend = await online("c", other, "desk")
    friend.send(message(owner.jid, "for the highest", type="chat", id="p1"))
    await high.expect("message", id="p1")
    high.send(presence(E("priority", None, "0")))
    await low.expect("presence", from_=high.jid)
    await asyncio.sleep(0.3)
    friend.send(message(owner.jid, "for the other now", type="chat", id="p2"))
    await low.expect("message", id="p2")
    assert not [e for e in mute.inbox if e.name == "message"], "a negative priority got it"


async def test_carbons_go_to_the_resources_on_other_nodes(site: Site, online: Online) -> None:
    owner, other = await pair(site)
    phone = await online("a", owner, "phone")
    laptop = await online("b", owner, "laptop")
    friend = await online("c", other, "desk")
    for client in (phone, laptop):
        reply = await client.iq("set", payload=E("enable", ns.CARBONS))
        assert reply.type == "result"
    phone.send(message(friend.jid, "sent by the phone", type="chat", id="c1"))
    await friend.expect("message", id="c1")
    carbon = await laptop.expect(lambda e: e.has("sent", ns.CARBONS))
    assert carbon.frm == owner.jid
    friend.send(message(phone.jid, "for the phone", type="chat", id="c2"))
    await phone.expect("message", id="c2")
    carbon = await laptop.expect(lambda e: e.has("received", ns.CARBONS))
    assert carbon.frm == owner.jid


async def test_a_resource_bound_again_on_another_node_ends_the_first_with_conflict(
    site: Site, online: Online
) -> None:
    owner, _ = await pair(site)
    first = await online("a", owner, "phone")
    second = await online("b", owner, "phone")
    error = await first.expect_stream_error("conflict")
    assert error is not None
    await second.sync()


async def test_presence_and_roster_pushes_cross_nodes(site: Site, online: Online) -> None:
    owner, other = await pair(site)
    phone = await online("a", owner, "phone")
    tablet = await online("c", owner, "tablet")
    friend = await online("b", other, "desk")
    await befriend(phone, friend)
    await pushed(tablet, other.jid, "subscription", "both")
    friend.send(presence(E("show", None, "away")))
    for client in (phone, tablet):
        seen = await client.expect(
            lambda e: e.name == "presence" and e.frm == friend.jid and e.child("show") is not None
        )
        assert seen.at("show").text == "away"
    await phone.roster_set(other.jid, subscription="both", name="a friend")
    await pushed(tablet, other.jid, "name", "a friend")
    await friend.offline()
    for client in (phone, tablet):
        await client.expect("presence", type="unavailable", from_=friend.jid)


async def test_what_was_sent_while_a_user_was_away_comes_on_whatever_node_he_returns(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    friend = await online("a", other, "desk")
    for number in range(3):
        friend.send(message(owner.jid, f"offline {number}", type="chat", id=f"o{number}"))
    await friend.sync()
    await asyncio.sleep(0.5)
    back = await online("b", owner, "phone")
    for number in range(3):
        stanza = await back.expect("message", id=f"o{number}")
        assert stanza.has("delay", ns.DELAY)
    await back.offline()
    back.abort()
    again = await online("c", owner, "phone")
    await again.expect_nothing("message")


async def test_an_archive_is_the_same_on_every_node(site: Site, online: Online) -> None:
    owner, other = await pair(site)
    friend = await online("a", other, "desk")
    mine = await online("b", owner, "phone")
    for number in range(5):
        friend.send(chat(owner.jid, f"number {number}"))
        await mine.expect("message", from_=friend.jid)
    found = []
    for node in "abc":
        reader = await online(node, owner, f"reader-{node}", priority=-1)
        found.append([(one.id, one.body) for one in await whole(reader, 2)])
    assert [body for _, body in found[0]] == [f"number {n}" for n in range(5)]
    assert found[0] == found[1] == found[2]


async def test_an_inbox_is_the_same_on_every_node_and_read_for_all(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    friend = await online("a", other, "desk")
    mine = await online("b", owner, "phone")
    for number in range(3):
        friend.send(chat(owner.jid, f"number {number}"))
        await mine.expect("message", from_=friend.jid)
    readers = [await online(node, owner, f"reader-{node}", priority=-1) for node in "abc"]
    assert [await unread(reader) for reader in readers] == [{other.jid: "3"}] * 3
    await set_entry(readers[2], other.jid, read="true")
    assert [await unread(reader) for reader in readers] == [{other.jid: "0"}] * 3


async def test_a_blocked_user_of_another_node_is_blocked_from_the_next_stanza_on(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    mine = await online("a", owner, "phone")
    tablet = await online("b", owner, "tablet")
    pest = await online("c", other, "desk")
    block = E("block", ns.BLOCKING, E("item", None, jid=other.jid))
    assert (await tablet.iq("set", payload=block)).type == "result"
    pest.send(message(mine.jid, "let me in", type="chat", id="x1"))
    refused = await pest.expect("message", type="error", id="x1")
    assert refused.at("error").condition == "service-unavailable"
    await mine.expect_nothing("message", id="x1")


async def test_a_session_resumes_on_another_node_with_what_came_meanwhile(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    phone = await online("a", owner, "phone", sm=True)
    friend = await online("b", other, "desk")
    phone.abort()
    await phone.expect_eof()
    for number in range(3):
        friend.send(message(phone.jid, f"meanwhile {number}", type="chat", id=f"m{number}"))
    await friend.sync()
    back = Client(site["c"].door, owner)
    back.auto_ack = True
    await back.negotiate()
    await back.authenticate()
    answer = await back.sm_resume(phone)
    assert answer.name == "resumed", f"not resumed: {answer}"
    for number in range(3):
        await back.expect("message", id=f"m{number}")
    friend.send(message(phone.jid, "and on", type="chat", id="on"))
    await back.expect("message", id="on")
    back.send(message(friend.jid, "still me", type="chat", id="back"))
    got = await friend.expect("message", id="back")
    assert got.frm == phone.jid
    await back.close()


async def test_another_user_cannot_resume_a_session_from_another_node(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    phone = await online("a", owner, "phone", sm=True)
    thief = Client(site["b"].door, other)
    await thief.negotiate()
    await thief.authenticate()
    answer = await thief.sm_resume(phone)
    assert answer.name == "failed"
    await phone.sync()
    thief.abort()


async def test_a_request_to_a_resource_on_another_node_is_answered(
    site: Site, online: Online
) -> None:
    owner, other = await pair(site)
    mine = await online("a", owner, "phone")
    friend = await online("c", other, "desk")
    asking = asyncio.create_task(mine.iq("get", to=friend.jid, payload=E("ping", ns.PING)))
    request = await friend.expect("iq", type="get", from_=mine.jid)
    friend.answer(request)
    assert (await asking).type == "result"


async def test_login_with_a_wrong_password_is_refused_on_every_node(site: Site) -> None:
    owner, _ = await pair(site)
    for node in site.nodes.values():
        client = Client(node.door, Account(owner.jid, "wrong"))
        await client.negotiate()
        with pytest.raises(SaslFailed) as failed:
            await client.authenticate()
        assert failed.value.condition == "not-authorized"
        client.abort()


async def unread(client: Client) -> dict[str | None, str | None]:
    """Whose conversations its inbox has, with how many messages that were not read (XEP-0430)."""
    client.drain()
    reply = await client.iq("get", payload=E("inbox", XEP_0430))
    assert reply.type == "result", f"refused: {reply}"
    entries = [e.at(("entry", XEP_0430)) for e in client.drain() if e.has("entry", XEP_0430)]
    return {entry.get("jid"): entry.get("unread") for entry in entries}
