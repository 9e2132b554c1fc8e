# SPDX-License-Identifier: Apache-2.0
"""XEP-0424 Message Retraction: passes, is archived, and leaves a tombstone in both archives."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import Page, archive, chat, said, search
from support.client import Client, fence
from support.play import Clients
from support.xml import E, Element, message

pytestmark = pytest.mark.ours("other servers keep what was retracted")

RETRACT = "urn:xmpp:message-retract:1"


def retraction(to: str, id_: str, own_id: str = "retract-message-1") -> Element:
    """XEP-0424 #usecases, example 4."""
    return message(
        to,
        E("retract", RETRACT, id=id_),
        E("fallback", "urn:xmpp:fallback:0", for_=RETRACT),
        E("body", None, "/me retracted a previous message"),
        E("store", ns.HINTS),
        type="chat",
        id=own_id,
    )


def is_tombstone(page: Page, at: int) -> bool:
    """Whether nothing of a message is left but that it was there (#tombstones)."""
    inner = page.results[at].message
    retracted = inner.child("retracted", RETRACT)
    if retracted is None:
        return False
    assert inner.body is None
    assert [c.tag for c in inner] == [("retracted", RETRACT)]
    assert retracted.get("stamp")
    return retracted.get("id") == "retract-message-1"


async def test_tombstones_are_announced(romeo: Client) -> None:
    # XEP-0424 #disco, #tombstones
    for to in (romeo.host, romeo.bare):
        reply = await romeo.iq("get", to=to, payload=E("query", ns.DISCO_INFO))
        features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
        assert {RETRACT, f"{RETRACT}#tombstone"} <= features


async def test_a_retraction_leaves_a_tombstone_on_both_sides(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "before")
    romeo.send(chat(juliet.jid, "a secret word", id="wrong-recipient-1"))
    await said(romeo, juliet, "behind")
    for client in (romeo, juliet):
        assert await search(client, "secret") == ["a secret word"]
    ids = {client: (await archive(client)).ids for client in (romeo, juliet)}
    romeo.send(retraction(juliet.jid, "wrong-recipient-1"))
    got = await juliet.expect("message", id="retract-message-1")
    assert got.has("retract", RETRACT)
    await fence(romeo, juliet)
    for client in (romeo, juliet):
        page = await archive(client)
        assert page.ids[:3] == ids[client]
        assert [page.bodies[0], page.bodies[2]] == ["before", "behind"]
        assert is_tombstone(page, 1)
        assert page.results[1].message.frm == romeo.jid
        # "The archiving service therefore MUST store the retraction message"
        assert page.results[3].message.at(("retract", RETRACT)).get("id") == "wrong-recipient-1"
        assert await search(client, "secret") == []
        assert await search(client, "retracted") == []


async def test_nobody_retracts_the_words_of_another(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # XEP-0424 #security
    romeo.send(chat(juliet.jid, "my word", id="his"))
    await fence(romeo, juliet)
    juliet.send(retraction(romeo.jid, "his"))
    stranger = await clients.online()
    stranger.send(retraction(juliet.jid, "his"))
    await fence(juliet, romeo)
    await fence(stranger, juliet)
    for client in (romeo, juliet):
        page = await archive(client)
        assert page.bodies[0] == "my word"
        assert await search(client, "word") == ["my word"]


async def test_a_retraction_names_its_own_conversation(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    romeo.send(chat(juliet.jid, "to her", id="same"))
    romeo.send(chat(nurse.jid, "to the nurse", id="same"))
    await fence(romeo, juliet)
    await fence(romeo, nurse)
    romeo.send(retraction(nurse.jid, "same"))
    await fence(romeo, nurse)
    page = await archive(romeo)
    assert page.bodies[0] == "to her"
    assert is_tombstone(page, 1)
    assert (await archive(juliet)).bodies == ["to her"]


async def test_a_retraction_of_nothing_is_only_a_message(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "x")
    romeo.send(retraction(juliet.jid, "never-sent"))
    await fence(romeo, juliet)
    page = await archive(juliet)
    assert page.bodies[0] == "x"
    assert len(page.results) == 2
