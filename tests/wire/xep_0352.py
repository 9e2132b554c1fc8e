# SPDX-License-Identifier: Apache-2.0
"""XEP-0352 Client State Indication: what waits while a client is inactive, and what does not."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client, fence
from support.play import Clients
from support.xml import E, Element, message, presence

HELD = pytest.mark.ours("which stanzas wait is the server's choice (XEP-0352 #rules)")


async def inactive(client: Client) -> None:
    """Says inactive, and waits until it has been handled."""
    client.send(E("inactive", ns.CSI))
    await client.sync()
    client.drain()


async def test_feature_is_offered_after_login_only(clients: Clients) -> None:
    # XEP-0352 #disco, example 1
    client = await clients.stream()
    assert not client.features.has("csi", ns.CSI)
    await client.authenticate()
    assert client.features.has("csi", ns.CSI)


async def test_indications_are_not_answered(romeo: Client) -> None:
    # XEP-0352 #protocol
    for name in ("inactive", "active", "active", "inactive", "inactive"):
        romeo.send(E(name, ns.CSI))
    await romeo.expect_nothing(within_s=0.05)


IMPORTANT = {
    "body": [E("body", None, "x")],
    "encrypted": [E("encrypted", "urn:xmpp:omemo:2")],
    "call": [E("propose", ns.JINGLE_MESSAGE, id="c1")],
    "invitation": [E("x", ns.CONFERENCE, jid="room@conference.example")],
}


@pytest.mark.parametrize("children", IMPORTANT.values(), ids=IMPORTANT.keys())
async def test_important_message_reaches_an_inactive_client_at_once(
    couple: tuple[Client, Client], children: list[Element]
) -> None:
    romeo, juliet = couple
    await inactive(juliet)
    romeo.send(message(juliet.jid, *children, type="chat", id="m1"))
    await juliet.expect("message", id="m1", timeout_s=3)


async def test_iq_reaches_an_inactive_client_at_once(romeo: Client, juliet: Client) -> None:
    await inactive(juliet)
    romeo.send(E("iq", ns.CLIENT, E("query", "urn:example:q"), type="get", to=juliet.jid))
    await juliet.expect("iq", type="get", timeout_s=3)


@HELD
async def test_presence_waits_and_only_the_last_of_each_is_kept(
    couple: tuple[Client, Client],
) -> None:
    # requirements 4.2: hold presence, the last per JID
    romeo, juliet = couple
    await inactive(juliet)
    for show in ("away", "dnd", "xa"):
        romeo.send(presence(E("show", None, show)))
    await romeo.sync()
    juliet.send_raw(" ")
    assert not [e for e in juliet.drain() if e.name == "presence"]
    juliet.send(E("active", ns.CSI))
    got = await juliet.expect("presence", from_=romeo.jid)
    assert got.at("show").text == "xa"
    await juliet.expect_nothing("presence", within_s=0.1)


@HELD
async def test_what_waited_comes_before_an_important_stanza(
    couple: tuple[Client, Client],
) -> None:
    # requirements 4.2: flushed in the right order
    romeo, juliet = couple
    await inactive(juliet)
    romeo.send(presence(E("show", None, "dnd")))
    await romeo.sync()
    romeo.send(message(juliet.jid, "hello", type="chat"))
    first = await juliet.next()
    second = await juliet.next()
    assert [first.name, second.name] == ["presence", "message"]


@HELD
async def test_chat_state_of_an_inactive_client_is_dropped(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await inactive(juliet)
    romeo.send(message(juliet.jid, E("composing", ns.CHATSTATES), type="chat", id="state"))
    romeo.send(message(juliet.jid, "hello", type="chat", id="m1"))
    await juliet.expect("message", id="m1")
    juliet.send(E("active", ns.CSI))
    await juliet.expect_nothing("message", id="state", within_s=0.1)


async def test_messages_are_never_reordered(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await inactive(juliet)
    for i in range(30):
        romeo.send(message(juliet.jid, str(i), type="chat"))
        romeo.send(presence(E("status", None, str(i))))
    seen = [(await juliet.expect("message")).body for _ in range(30)]
    assert seen == [str(i) for i in range(30)]


@HELD
async def test_indication_takes_effect_before_the_next_stanza(
    couple: tuple[Client, Client],
) -> None:
    romeo, juliet = couple
    await inactive(juliet)
    romeo.send(presence(E("show", None, "dnd")))
    await romeo.sync()
    juliet.send_raw(
        f"<active xmlns='{ns.CSI}'/><iq type='get' id='after' to='{juliet.host}'>"
        f"<ping xmlns='{ns.PING}'/></iq>"
    )
    names = [(await juliet.next()).name for _ in range(2)]
    assert names == ["presence", "iq"]


async def test_state_is_active_after_resumption(clients: Clients, romeo: Client) -> None:
    # XEP-0352 #sm / requirements 4.1: not restored
    juliet = await clients.bound()
    await juliet.sm_enable()
    await juliet.roster()
    await juliet.online()
    await clients.friends(romeo, juliet)
    juliet.send(E("inactive", ns.CSI))
    await juliet.sync()
    juliet.abort()
    again = await clients.authenticated(juliet.account)
    assert (await again.sm_resume(juliet)).name == "resumed"
    romeo.send(presence(E("show", None, "dnd")))
    got = await again.expect("presence", from_=romeo.jid, timeout_s=3)
    assert got.at("show").text == "dnd"


@HELD
async def test_nothing_that_waited_is_lost_at_the_end_of_the_line(
    clients: Clients, romeo: Client
) -> None:
    # what waits counts as sent, so that a resumption brings it
    juliet = await clients.bound()
    await juliet.sm_enable()
    await juliet.roster()
    await juliet.online()
    await clients.friends(romeo, juliet)
    await inactive(juliet)
    romeo.send(presence(E("show", None, "dnd")))
    await romeo.sync()
    juliet.abort()
    await juliet.expect_eof()
    again = await clients.authenticated(juliet.account)
    assert (await again.sm_resume(juliet)).name == "resumed"
    got = await again.expect("presence", from_=romeo.jid)
    assert got.at("show").text == "dnd"


async def test_inactive_before_bind_does_not_harm(clients: Clients) -> None:
    client = await clients.authenticated()
    client.send(E("inactive", ns.CSI))
    try:
        await client.bind()
    except AssertionError:
        return  # refusing it is as good
    await client.online()
    await fence(client, client)
