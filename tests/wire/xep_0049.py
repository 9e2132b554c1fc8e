# SPDX-License-Identifier: Apache-2.0
"""XEP-0049 Private XML Storage."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element

EXODUS = "exodus:prefs"


async def store(client: Client, *children: Element, to: str | None = None) -> Element:
    """Sets elements; the answer."""
    return await client.iq("set", to=to, payload=E("query", ns.PRIVATE, *children))


async def fetch(client: Client, name: str, namespace: str, to: str | None = None) -> Element:
    """Gets one element; the answer."""
    return await client.iq("get", to=to, payload=E("query", ns.PRIVATE, E(name, namespace)))


def prefs(nick: str) -> Element:
    """XEP-0049, example 1."""
    return E("exodus", EXODUS, E("defaultnick", None, nick), E("x", "urn:example:x", a="<&>"))


async def test_stored_element_comes_back_whole(romeo: Client) -> None:
    # XEP-0049 #set and #get, examples 1 to 4
    assert (await store(romeo, prefs("Hamlet"))).type == "result"
    reply = await fetch(romeo, "exodus", EXODUS)
    got = reply.at(("query", ns.PRIVATE), ("exodus", EXODUS))
    assert got.canonical() == prefs("Hamlet").canonical()


async def test_nothing_stored_is_the_empty_element(romeo: Client) -> None:
    # XEP-0049 #get: the element without content
    reply = await fetch(romeo, "exodus", EXODUS)
    assert reply.type == "result"
    got = reply.at(("query", ns.PRIVATE), ("exodus", EXODUS))
    assert got.children == []


async def test_second_set_replaces_the_first(romeo: Client) -> None:
    await store(romeo, prefs("Hamlet"))
    await store(romeo, prefs("Yorick"))
    reply = await fetch(romeo, "exodus", EXODUS)
    got = reply.at(("query", ns.PRIVATE), ("exodus", EXODUS), "defaultnick")
    assert got.text == "Yorick"


async def test_namespaces_are_kept_apart(romeo: Client) -> None:
    await store(romeo, E("a", "urn:example:1", "one"))
    await store(romeo, E("a", "urn:example:2", "two"))
    for number, text in (("1", "one"), ("2", "two")):
        reply = await fetch(romeo, "a", f"urn:example:{number}")
        assert reply.at(("query", ns.PRIVATE), ("a", f"urn:example:{number}")).text == text


async def test_data_survives_logout(clients: Clients, romeo: Client) -> None:
    await store(romeo, prefs("Hamlet"))
    await romeo.close()
    again = await clients.online(romeo)
    reply = await fetch(again, "exodus", EXODUS)
    assert reply.at(("query", ns.PRIVATE), ("exodus", EXODUS), "defaultnick").text == "Hamlet"


async def test_data_of_others_is_out_of_reach(romeo: Client, juliet: Client) -> None:
    # XEP-0049 #errors, example 5
    await store(juliet, prefs("Juliet"))
    for reply in (
        await fetch(romeo, "exodus", EXODUS, juliet.bare),
        await store(romeo, prefs("Evil"), to=juliet.bare),
    ):
        assert reply.type == "error"
        assert reply.condition in ("forbidden", "service-unavailable")
    own = await fetch(juliet, "exodus", EXODUS)
    assert own.at(("query", ns.PRIVATE), ("exodus", EXODUS), "defaultnick").text == "Juliet"


@pytest.mark.deviates(prosody="takes any namespace")
async def test_reserved_namespace_is_not_acceptable(romeo: Client) -> None:
    # XEP-0049 #errors, example 6
    reply = await store(romeo, E("vcard", ns.VCARD))
    assert (reply.type, reply.condition) == ("error", "not-acceptable")
    reply = await store(romeo, E("query", ns.ROSTER))
    assert (reply.type, reply.condition) == ("error", "not-acceptable")


@pytest.mark.parametrize("kind", ["get", "set"])
@pytest.mark.deviates(prosody="answers bad-format, which is no stanza error")
async def test_empty_query_is_an_error(romeo: Client, kind: str) -> None:
    # XEP-0049 #errors: bad-request or not-acceptable
    reply = await romeo.iq(kind, payload=E("query", ns.PRIVATE))
    assert reply.type == "error"
    assert reply.condition in ("bad-request", "not-acceptable")
