# SPDX-License-Identifier: Apache-2.0
"""XEP-0160 Offline Messages: what is kept, when it is delivered, and in which order."""

from __future__ import annotations

import datetime

import pytest

from support import ns
from support.archive import archive
from support.client import Client
from support.endpoint import Account
from support.play import Clients
from support.xml import E, Element, message


@pytest.fixture
def absent(clients: Clients) -> Account:
    """An account that nobody is logged in to."""
    return clients.server.account()


async def received(client: Client) -> list[Element]:
    """The messages that have come, after a round trip."""
    await client.sync()
    return [e for e in client.drain() if e.name == "message"]


async def test_support_is_announced(romeo: Client) -> None:
    # XEP-0160 #disco
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert "msgoffline" in features


async def test_message_waits_for_presence_and_is_stamped(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    # XEP-0160 #flow, steps 4 and 5; XEP-0203
    before = datetime.datetime.now(datetime.UTC)
    romeo.send(message(absent.jid, "O blessed, blessed night!", type="chat", id="m1"))
    await romeo.sync()
    late = await clients.bound(absent)
    await late.expect_nothing("message", within_s=0.1)
    await late.online()
    got = await late.expect("message")
    assert (got.body, got.frm, got.id, got.type) == (
        "O blessed, blessed night!",
        romeo.jid,
        "m1",
        "chat",
    )
    delay = got.at(("delay", ns.DELAY))
    assert delay.get("from") in (late.host, late.bare)
    stamp = delay.get("stamp") or ""
    assert stamp.endswith("Z")
    at = datetime.datetime.fromisoformat(stamp)
    assert abs((at - before).total_seconds()) < 30


async def test_messages_come_once_and_in_order(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    # requirements 22 (4.4): 100 stored, all once, in order, stamped
    for i in range(100):
        romeo.send(message(absent.jid, str(i), type="chat"))
    await romeo.sync()
    late = await clients.online(absent)
    got = await received(late)
    assert [m.body for m in got] == [str(i) for i in range(100)]
    assert all(m.has("delay", ns.DELAY) for m in got)
    await late.close()
    again = await clients.online(absent)
    assert await received(again) == []


@pytest.mark.deviates(prosody="looks at the first presence only")
async def test_negative_priority_gets_nothing_until_it_rises(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    # requirements 22 (4.4): login by presence -1 (nothing), 0 (all)
    romeo.send(message(absent.jid, "x", type="chat"))
    await romeo.sync()
    late = await clients.online(absent, priority=-1)
    assert await received(late) == []
    await late.online(0)
    assert [m.body for m in await received(late)] == ["x"]


async def test_only_one_of_two_resources_gets_them(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    romeo.send(message(absent.jid, "x", type="chat"))
    await romeo.sync()
    first = await clients.online(absent)
    assert [m.body for m in await received(first)] == ["x"]
    second = await clients.online(absent)
    assert await received(second) == []


STORED = {
    "chat": ("chat", [E("body", None, "x")]),
    "normal": (None, [E("body", None, "x")]),
    "unknown type": ("foo", [E("body", None, "x")]),
    "body and chat state": ("chat", [E("body", None, "x"), E("active", ns.CHATSTATES)]),
    "encrypted": ("chat", [E("encrypted", "urn:xmpp:omemo:2"), E("store", ns.HINTS)]),
    "receipt": (None, [E("received", ns.RECEIPTS, id="r1")]),
    "marker": ("chat", [E("displayed", ns.MARKERS, id="d1"), E("store", ns.HINTS)]),
}
DROPPED = {
    "headline": ("headline", [E("body", None, "x")]),
    "error": ("error", [E("error", None, E("gone", ns.STANZAS), type="cancel")]),
    "chat state": ("chat", [E("composing", ns.CHATSTATES)]),
    "chat state and thread": ("chat", [E("composing", ns.CHATSTATES), E("thread", None, "t")]),
    "no-store": ("chat", [E("body", None, "x"), E("no-store", ns.HINTS)]),
}


@pytest.mark.parametrize(("kind", "children"), STORED.values(), ids=STORED.keys())
async def test_message_with_content_is_stored(
    clients: Clients, romeo: Client, absent: Account, kind: str | None, children: list[Element]
) -> None:
    # XEP-0160 #handling; requirements 7, table
    romeo.send(message(absent.jid, *children, type=kind, id="m1"))
    await romeo.sync()
    late = await clients.online(absent)
    got = await received(late)
    assert [m.id for m in got] == ["m1"]
    for child in children:
        assert got[0].has(child.name, child.ns or ns.CLIENT)


@pytest.mark.deviates(prosody="stores chat states with a thread, and knows no hints here")
@pytest.mark.parametrize(("kind", "children"), DROPPED.values(), ids=DROPPED.keys())
async def test_message_without_lasting_content_is_not_stored(
    clients: Clients, romeo: Client, absent: Account, kind: str, children: list[Element]
) -> None:
    romeo.send(message(absent.jid, *children, type=kind, id="m1"))
    await romeo.sync()
    late = await clients.online(absent)
    assert await received(late) == []


async def test_groupchat_is_refused_not_stored(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    romeo.send(message(absent.jid, "x", type="groupchat", id="m1"))
    got = await romeo.expect("message", id="m1")
    assert (got.type, got.condition) == ("error", "service-unavailable")
    late = await clients.online(absent)
    assert await received(late) == []


async def test_delay_of_the_sender_is_kept_beside_ours(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    # XEP-0203: several entities may have delayed it
    old = E("delay", ns.DELAY, from_="elsewhere.example", stamp="2002-09-10T23:08:25Z")
    romeo.send(message(absent.jid, E("body", None, "x"), old, type="chat"))
    await romeo.sync()
    late = await clients.online(absent)
    (got,) = await received(late)
    stamps = {d.get("from"): d.get("stamp") for d in got.all("delay", ns.DELAY)}
    assert stamps["elsewhere.example"] == "2002-09-10T23:08:25Z"
    assert len(stamps) == 2


@pytest.mark.ours("a forged delay in our own name is taken away")
async def test_forged_delay_of_our_domain_is_stripped(romeo: Client, juliet: Client) -> None:
    # requirements 2.6; attack 15
    forged = E("delay", ns.DELAY, from_=romeo.host, stamp="2002-09-10T23:08:25Z")
    romeo.send(message(juliet.jid, E("body", None, "x"), forged, type="chat"))
    assert not (await juliet.expect("message")).has("delay", ns.DELAY)


@pytest.mark.ours("offline_messages")
@pytest.mark.settings(limits={"offline_messages": 5}, archive={"enabled": False})
async def test_messages_above_the_limit_are_refused(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    # XEP-0160 #handling: service-unavailable when the queue is full
    for i in range(7):
        romeo.send(message(absent.jid, str(i), type="chat", id=f"m{i}"))
    for i in (5, 6):
        got = await romeo.expect("message", id=f"m{i}")
        assert (got.type, got.condition) == ("error", "service-unavailable")
    late = await clients.online(absent)
    assert [m.body for m in await received(late)] == ["0", "1", "2", "3", "4"]


@pytest.mark.ours("with an archive")
@pytest.mark.settings(limits={"offline_messages": 5})
async def test_messages_above_the_limit_are_still_in_the_archive(
    clients: Clients, romeo: Client, absent: Account
) -> None:
    for i in range(7):
        romeo.send(message(absent.jid, str(i), type="chat", id=f"m{i}"))
    await romeo.sync()
    assert [e for e in romeo.drain() if e.type == "error"] == []
    late = await clients.online(absent)
    assert [m.body for m in await received(late)] == ["0", "1", "2", "3", "4"]
    assert (await archive(late)).bodies == [str(i) for i in range(7)]
