# SPDX-License-Identifier: Apache-2.0
"""XEP-0359 Unique and Stable Stanza IDs: who gets which id, and whose are believed."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import archive, chat, place, said
from support.client import Client, fence
from support.component import Component
from support.play import Clients
from support.xml import E, Element, message

pytestmark = pytest.mark.ours("other servers are configured in their own way")


def stanza_id(by: str | None, id_: str = "forged") -> Element:
    return E("stanza-id", ns.SID, by=by, id=id_)


def ids(element: Element) -> list[tuple[str | None, str | None]]:
    """Every `<stanza-id/>` of a stanza."""
    return [(c.get("by"), c.get("id")) for c in element.all("stanza-id", ns.SID)]


async def test_accounts_announce_that_they_follow_the_rules(romeo: Client) -> None:
    # XEP-0359 #disco
    for to in (romeo.bare, romeo.host):
        reply = await romeo.iq("get", to=to, payload=E("query", ns.DISCO_INFO))
        features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
        assert ns.SID in features


async def test_each_side_gets_the_id_of_its_own_archive_only(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # XEP-0313 #archives-id: not to JIDs that may not see the archive; to one's carbons, yes
    second = await clients.online(juliet, resource="chamber")
    garden = await clients.online(romeo, resource="garden")
    for client in (second, garden):
        await client.iq("set", payload=E("enable", ns.CARBONS))
    (got,) = await said(romeo, juliet, "x")
    (hers,), (his,) = (await archive(juliet)).ids, (await archive(romeo)).ids
    assert ids(got) == [(juliet.bare, hers)]
    copy = await second.expect(lambda e: e.has("received", ns.CARBONS))
    inner = copy.at(("received", ns.CARBONS), ("forwarded", ns.FORWARD), ("message", ns.CLIENT))
    assert ids(inner) == [(juliet.bare, hers)]
    copy = await garden.expect(lambda e: e.has("sent", ns.CARBONS))
    inner = copy.at(("sent", ns.CARBONS), ("forwarded", ns.FORWARD), ("message", ns.CLIENT))
    assert ids(inner) == [(romeo.bare, his)]


async def test_every_device_gets_the_same_id(clients: Clients, romeo: Client) -> None:
    juliet = await clients.online()
    second = await clients.online(juliet)
    romeo.send(chat(juliet.bare, "x"))
    found = [place(await c.expect(lambda e: e.body == "x"), c.bare) for c in (juliet, second)]
    assert found[0] is not None
    assert found[0] == found[1]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_ids_in_the_name_of_the_account_are_taken_away(
    romeo: Client, juliet: Client, is_stored: bool
) -> None:
    # XEP-0359 #rules, 2 and 3: also where none is added, and in any spelling of the address
    forged = [stanza_id(juliet.bare), stanza_id(juliet.bare.upper()), stanza_id(None)]
    archived = E("archived", "urn:xmpp:mam:tmp", by=juliet.bare, id="forged")
    other = stanza_id("room@muc.example", "good")
    hint = None if is_stored else E("no-store", ns.HINTS)
    romeo.send(message(juliet.jid, "x", *forged, archived, other, hint, type="chat"))
    got = await juliet.expect("message")
    own = [(juliet.bare, id_) for id_ in (await archive(juliet)).ids]
    assert len(own) == is_stored
    assert sorted(ids(got), key=str) == sorted([("room@muc.example", "good"), *own], key=str)
    assert not got.has("archived", "urn:xmpp:mam:tmp")


async def test_a_component_cannot_forge_them_either(juliet: Client, component: Component) -> None:
    forged = stanza_id(juliet.bare)
    component.send(message(juliet.bare, "x", forged, from_=component.jid, id="m1"))
    got = await juliet.expect("message", id="m1")
    assert ids(got) == [(juliet.bare, (await archive(juliet)).ids[0])]


async def test_the_origin_id_stays(romeo: Client, juliet: Client) -> None:
    # XEP-0359 #origin-id: "MUST preserve the content of the <origin-id/> element"
    origin = E("origin-id", ns.SID, id="o1")
    romeo.send(message(juliet.jid, "x", origin, type="chat"))
    got = await juliet.expect("message")
    assert got.at(("origin-id", ns.SID)).get("id") == "o1"
    for client in (romeo, juliet):
        (found,) = (await archive(client)).results
        assert found.message.at(("origin-id", ns.SID)).get("id") == "o1"


async def test_ids_tell_neither_size_nor_neighbours(romeo: Client, juliet: Client) -> None:
    # XEP-0359 #security
    await said(romeo, juliet, *"abcdef")
    found = (await archive(romeo)).ids
    tails = [one.rpartition("-")[2] for one in found]
    assert len(set(tails)) == len(found)
    assert tails != sorted(tails)


@pytest.mark.parametrize("has_origin_id", [True, False])
async def test_a_message_that_is_sent_again_is_archived_once(
    clients: Clients, romeo: Client, juliet: Client, has_origin_id: bool
) -> None:
    # The acknowledgement never came, so the client sends it again on a new stream.
    stanza = chat(juliet.jid, "once", E("origin-id", ns.SID, id="o1") if has_origin_id else None)
    await romeo.sm_enable(resume=False)
    romeo.send(stanza)
    got = await juliet.expect(lambda e: e.body == "once")
    romeo.abort()
    again = await clients.online(romeo)
    await again.sm_enable(resume=False)
    again.send(stanza)
    await fence(again, juliet)
    for client in (again, juliet):
        assert (await archive(client)).bodies == ["once"]
    for copy in juliet.drain():
        # Passed on again under its old id, so that the client knows it.
        if copy.body == "once":
            assert place(copy, juliet.bare) == place(got, juliet.bare)


async def test_the_same_words_twice_on_one_stream_are_two_messages(
    romeo: Client, juliet: Client
) -> None:
    await romeo.sm_enable()
    for _ in range(2):
        romeo.send(message(juliet.jid, "hello", type="chat"))
        romeo.send(message(juliet.jid, "hello", type="chat", id="same"))
    await fence(romeo, juliet)
    assert (await archive(juliet)).bodies == ["hello"] * 4
