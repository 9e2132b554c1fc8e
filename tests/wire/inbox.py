# SPDX-License-Identifier: Apache-2.0
"""The inbox of Erlang Solutions (`erlang-solutions.com:xmpp:inbox:0`), as inbox.md describes it."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from support import ns
from support.archive import (
    CONVERSATION,
    INBOX,
    archive,
    chat,
    inbox,
    inbox_query,
    marker,
    place,
    said,
    set_entry,
    unread,
)
from support.client import Client, fence
from support.play import Clients
from support.xml import E, Element, message

pytestmark = pytest.mark.ours("a protocol of few servers")


async def properties(client: Client, jid: str, **attrs: object) -> Element:
    """What is said of one conversation."""
    reply = await client.iq("get", payload=E("query", CONVERSATION, jid=jid, **attrs))
    assert reply.type == "result", f"refused: {reply}"
    return reply.at(("query", CONVERSATION))


async def notice(client: Client, jid: str) -> Element:
    """The next notice about a conversation."""

    def fits(element: Element) -> bool:
        x = element.child("x", CONVERSATION)
        return x is not None and x.get("jid") == jid

    got = await client.expect(fits)
    assert (got.frm, got.to) == (client.bare, client.jid)
    return got.at(("x", CONVERSATION))


# Announcement and form.


async def test_the_inbox_is_announced(romeo: Client) -> None:
    for to in (romeo.host, romeo.bare):
        reply = await romeo.iq("get", to=to, payload=E("query", ns.DISCO_INFO))
        features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
        assert INBOX in features


async def test_forms_tell_what_can_be_asked_and_changed(romeo: Client) -> None:
    reply = await romeo.iq("get", payload=E("query", INBOX))
    form = reply.at(("query", INBOX), ("x", ns.DATA_FORMS))
    fields = {f.get("var") for f in form.all("field")}
    assert fields == {"FORM_TYPE", "start", "end", "order", "hidden_read", "box", "archive"}
    reply = await romeo.iq("get", payload=E("query", CONVERSATION))
    form = reply.at(("query", CONVERSATION), ("x", ns.DATA_FORMS))
    fields = {f.get("var") for f in form.all("field")}
    assert fields == {"FORM_TYPE", "archive", "read", "mute", "box"}


@pytest.mark.settings(archive={"inbox": False})
async def test_an_inbox_that_is_off_is_not_there(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "x")
    assert (await archive(juliet)).bodies == ["x"]
    reply = await juliet.iq("set", payload=inbox_query("q", {}, {}))
    assert reply.condition == "service-unavailable"
    reply = await juliet.iq("get", to=juliet.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert INBOX not in features


# Entries and counts, §1 and §8.


async def test_messages_to_an_absent_user_are_unread(clients: Clients, romeo: Client) -> None:
    absent = clients.server.account()
    for text in ("1", "2", "3"):
        romeo.send(chat(absent.jid, text))
    await romeo.sync()
    late = await clients.bound(absent)
    got = await inbox(late)
    (entry,) = got.entries
    assert (entry.unread, entry.body, entry.box) == (3, "3", "inbox")
    assert (entry.is_read, entry.is_archived, entry.mute) == (False, False, "0")
    assert (entry.outer.frm, entry.outer.to) == (late.bare, late.jid)
    assert [got.number(n) for n in ("count", "unread-messages", "active-conversations")] == [
        1,
        3,
        1,
    ]
    last = (await archive(late)).results[-1]
    assert (place(entry.message, late.bare), entry.stamp) == (last.id, last.stamp)
    (own,) = (await inbox(romeo)).entries
    assert (own.unread, own.body, own.is_read) == (0, "3", True)
    assert own.peer(romeo.bare) == absent.jid


async def test_an_own_message_reads_the_conversation(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "1", "2")
    assert await unread(juliet) == {romeo.bare: 2}
    await said(juliet, romeo, "3")
    assert await unread(juliet) == {romeo.bare: 0}
    assert await unread(romeo) == {juliet.bare: 1}


@pytest.mark.parametrize("name", ["displayed", "acknowledged"])
@pytest.mark.parametrize("at", [0, 2, 4])
async def test_a_marker_in_the_middle_leaves_the_exact_rest(
    romeo: Client, juliet: Client, at: int, name: str
) -> None:
    got = await said(romeo, juliet, *"01234")
    before = (await inbox(juliet)).entries[0]
    juliet.send(marker(romeo.jid, got[at].id or "", name))
    await fence(juliet, romeo)
    after = (await inbox(juliet)).entries[0]
    assert after.unread == 4 - at
    assert (after.body, after.stamp) == (before.body, before.stamp)


async def test_a_marker_never_goes_back(romeo: Client, juliet: Client) -> None:
    got = await said(romeo, juliet, *"01234")
    for at, left in ((3, 1), (1, 1), (4, 0), (0, 0)):
        juliet.send(marker(romeo.jid, got[at].id or ""))
        await fence(juliet, romeo)
        assert await unread(juliet) == {romeo.bare: left}
    await said(romeo, juliet, "5")
    assert await unread(juliet) == {romeo.bare: 1}


async def test_a_marker_counts_only_what_was_received(romeo: Client, juliet: Client) -> None:
    got = await said(romeo, juliet, "0", "1")
    await said(juliet, romeo, "mine")
    got += await said(romeo, juliet, "2", "3")
    juliet.send(marker(romeo.jid, got[2].id or ""))
    await fence(juliet, romeo)
    assert await unread(juliet) == {romeo.bare: 1}


ASIDE = {
    "chat state": [E("composing", ns.CHATSTATES)],
    "receipt": [E("received", ns.RECEIPTS, id="1")],
    "marker of the peer": [E("displayed", ns.MARKERS, id="1")],
    "unknown marker": [E("displayed", ns.MARKERS, id="nope")],
    "not to be stored": [E("body", None, "x"), E("no-store", ns.HINTS)],
    "reaction": [E("reactions", "urn:xmpp:reactions:0", id="1")],
}


@pytest.mark.parametrize("children", ASIDE.values(), ids=ASIDE.keys())
@pytest.mark.parametrize("way", ["sent", "received"])
async def test_what_is_no_message_changes_nothing(
    romeo: Client, juliet: Client, children: list[Element], way: str
) -> None:
    await said(romeo, juliet, "hello")
    before = (await inbox(juliet)).entries[0]
    sender, receiver = (juliet, romeo) if way == "sent" else (romeo, juliet)
    sender.send(message(receiver.jid, *children, type="chat", id="aside"))
    await fence(sender, receiver)
    (after,) = (await inbox(juliet)).entries
    assert (after.unread, after.body, after.stamp) == (1, "hello", before.stamp)


async def test_encrypted_messages_count(romeo: Client, juliet: Client) -> None:
    omemo = E("encrypted", "urn:xmpp:omemo:2", E("payload", None, "x"))
    romeo.send(message(juliet.jid, omemo, type="chat", id="m1"))
    await fence(romeo, juliet)
    (entry,) = (await inbox(juliet)).entries
    assert (entry.unread, entry.body, entry.message.id) == (1, None, "m1")


async def test_a_note_to_oneself_is_read(romeo: Client) -> None:
    romeo.send(chat(romeo.bare, "milk"))
    await romeo.expect(lambda e: e.body == "milk")
    assert await unread(romeo) == {romeo.bare: 0}


async def test_a_thousand_messages_of_twenty_senders_are_counted_exactly(
    clients: Clients,
) -> None:
    juliet = await clients.online()
    senders = [await clients.online() for _ in range(20)]

    async def send(sender: Client) -> None:
        for number in range(50):
            sender.send(chat(juliet.bare, str(number)))
        await fence(sender, juliet)

    await asyncio.gather(*map(send, senders))
    got = await inbox(juliet)
    assert sorted(e.unread for e in got.entries) == [50] * 20
    assert {e.body for e in got.entries} == {"49"}
    assert got.number("unread-messages") == 1_000
    assert got.number("active-conversations") == 20


# Changes of one conversation, §4.


async def test_read_and_unread(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "1", "2")
    for is_read, expected in (("false", 2), ("true", 0), ("false", 1), ("false", 1), ("1", 0)):
        assert (await set_entry(juliet, romeo.bare, read=is_read)).type == "result"
        assert await unread(juliet) == {romeo.bare: expected}
    await said(romeo, juliet, "3")
    assert await unread(juliet) == {romeo.bare: 1}
    reset = E("reset", CONVERSATION, jid=romeo.bare)
    assert (await juliet.iq("set", payload=reset)).type == "result"
    assert await unread(juliet) == {romeo.bare: 0}


async def test_every_device_hears_of_a_change_and_the_peer_does_not(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    second = await clients.online(juliet, resource="chamber")
    await said(romeo, juliet, "1")
    await fence(juliet, romeo)
    romeo.drain()
    reply = await set_entry(juliet, romeo.bare, read="true", box="archive")
    assert (reply.type, reply.payload) == ("result", None)
    for client in (juliet, second):
        told = await notice(client, romeo.bare)
        assert [told.at(n).text for n in ("read", "box", "archive", "mute")] == [
            "true",
            "archive",
            "true",
            "0",
        ]
    await romeo.expect_nothing("message", within_s=0.1)
    assert (await archive(juliet)).bodies == ["1"]


async def test_a_message_brings_a_conversation_back_from_the_archive(
    romeo: Client, juliet: Client
) -> None:
    await said(romeo, juliet, "1")
    await set_entry(juliet, romeo.bare, archive="true")
    await notice(juliet, romeo.bare)
    assert (await inbox(juliet, box="inbox")).entries == []
    await said(romeo, juliet, "2")
    told = await notice(juliet, romeo.bare)
    assert (told.at("box").text, told.at("read").text) == ("inbox", "false")
    (entry,) = (await inbox(juliet, box="inbox")).entries
    assert (entry.body, entry.unread) == ("2", 2)
    await set_entry(juliet, romeo.bare, archive="true")
    await said(juliet, romeo, "3")
    (entry,) = (await inbox(juliet, box="inbox")).entries
    assert entry.body == "3"


@pytest.mark.settings(modules_inbox_esl={"boxes": ["work"]})
async def test_a_message_leaves_a_conversation_in_any_other_box(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    for box in ("bin", "work"):
        peer = await clients.online()
        await said(peer, juliet, "1")
        assert (await set_entry(juliet, peer.bare, box=box)).type == "result"
        await said(peer, juliet, "2")
        (entry,) = (await inbox(juliet, box=box)).entries
        assert (entry.body, entry.unread, entry.box) == ("2", 2, box)


async def test_a_mute_ends_by_itself(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "1")
    before = datetime.datetime.now(datetime.UTC)
    await set_entry(juliet, romeo.bare, mute=1)
    told = await notice(juliet, romeo.bare)
    until = datetime.datetime.fromisoformat(told.at("mute").text)
    assert 0.5 < (until - before).total_seconds() < 10
    (entry,) = (await inbox(juliet)).entries
    assert entry.mute == told.at("mute").text
    await asyncio.sleep((until - datetime.datetime.now(datetime.UTC)).total_seconds() + 0.05)
    (entry,) = (await inbox(juliet)).entries
    assert entry.mute == "0"
    await set_entry(juliet, romeo.bare, mute=86_400)
    assert (await properties(juliet, romeo.bare)).at("mute").text != "0"
    await set_entry(juliet, romeo.bare, mute=0)
    assert (await properties(juliet, romeo.bare)).at("mute").text == "0"


async def test_one_conversation_can_be_asked_for(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "1", "2")
    found = await properties(juliet, romeo.bare)
    assert {c.name: c.text for c in found} == {
        "box": "inbox",
        "archive": "false",
        "mute": "0",
        "read": "false",
    }
    found = await properties(juliet, romeo.bare, complete="true")
    inner = found.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
    assert inner.body == "2"


async def test_the_bin_is_emptied(clients: Clients, juliet: Client) -> None:
    peers = [await clients.online() for _ in range(3)]
    for peer in peers:
        await said(peer, juliet, "x")
    for peer in peers[:2]:
        await set_entry(juliet, peer.bare, box="bin")
    assert len((await inbox(juliet)).entries) == 1
    assert len((await inbox(juliet, box="all")).entries) == 3
    reply = await juliet.iq("set", payload=E("empty-bin", INBOX))
    assert reply.at(("empty-bin", INBOX), "num").text == "2"
    assert set(await unread(juliet)) == {peers[2].bare}
    assert len((await archive(juliet)).results) == 3
    await said(peers[0], juliet, "again")
    assert (await unread(juliet))[peers[0].bare] == 1


WRONG = {
    "nothing": {},
    "box": {"box": "nope"},
    "archive": {"archive": "maybe"},
    "mute": {"mute": "-1"},
    "mute too long": {"mute": "9999999999"},
    "read": {"read": "x"},
    "one of two": {"read": "true", "box": "nope"},
    "unknown": {"colour": "red"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_property_changes_nothing(
    romeo: Client, juliet: Client, wrong: dict[str, object]
) -> None:
    await said(romeo, juliet, "1")
    reply = await set_entry(juliet, romeo.bare, **wrong)
    assert (reply.condition, reply.error_type) == ("bad-request", "modify")
    assert reply.at("error").has("text", ns.STANZAS)
    (entry,) = (await inbox(juliet)).entries
    assert (entry.unread, entry.box, entry.mute) == (1, "inbox", "0")


async def test_a_conversation_that_is_not_there(romeo: Client) -> None:
    nobody = f"nobody@{romeo.host}"
    assert (await set_entry(romeo, nobody, read="true")).condition == "item-not-found"
    reply = await romeo.iq("get", payload=E("query", CONVERSATION, jid=nobody))
    assert reply.condition == "item-not-found"
    reply = await romeo.iq("set", payload=E("reset", CONVERSATION, jid=nobody))
    assert reply.condition == "item-not-found"
    assert (await set_entry(romeo, "@", read="true")).condition == "bad-request"
    assert (await inbox(romeo)).entries == []


async def test_the_inbox_of_another_is_forbidden(romeo: Client, juliet: Client) -> None:
    for kind, payload in (
        ("set", inbox_query("q", {}, {})),
        ("get", E("query", CONVERSATION, jid=juliet.bare)),
        ("set", E("query", CONVERSATION, E("read", None, "true"), jid=juliet.bare)),
        ("set", E("empty-bin", INBOX)),
    ):
        reply = await juliet.iq(kind, to=romeo.bare, payload=payload)
        assert (reply.condition, reply.error_type) == ("forbidden", "auth")
