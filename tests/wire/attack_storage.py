# SPDX-License-Identifier: Apache-2.0
"""Limits on what a user may keep at the server: each with its error, and nothing half done.

Case 25 of README.md; the limits in `[limits]` have their tests in limits.py.
"""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.hostile import Bystanders, resident_kb, settled_kb
from support.play import Clients
from support.server import Server
from support.xml import E, Element

pytestmark = pytest.mark.ours("the limits are ours")

HEADROOM_KB = 16_384
small = pytest.mark.settings(
    modules_private={"max_bytes": 2_000, "max_elements": 3}, modules_vcard={"max_bytes": 2_000}
)


async def store(client: Client, *elements: Element) -> Element:
    """The answer to storing them."""
    return await client.iq("set", payload=E("query", ns.PRIVATE, *elements))


async def fetch(client: Client, space: str) -> Element:
    """What is stored there; the element is empty if nothing is."""
    reply = await client.iq("get", payload=E("query", ns.PRIVATE, E("a", space)))
    return reply.at(("query", ns.PRIVATE), ("a", space))


@small
async def test_an_element_of_private_storage_is_bounded(romeo: Client) -> None:
    assert (await store(romeo, E("a", "urn:1", "x" * 1_800))).type == "result"
    reply = await store(romeo, E("a", "urn:1", "y" * 2_100))
    assert (reply.type, reply.condition) == ("error", "not-acceptable")
    assert (await fetch(romeo, "urn:1")).text == "x" * 1_800


@small
async def test_an_account_stores_so_many_elements(romeo: Client, juliet: Client) -> None:
    assert (await store(romeo, E("a", "urn:1", "1"), E("a", "urn:2", "2"))).type == "result"
    reply = await store(romeo, E("a", "urn:3", "3"), E("a", "urn:4", "4"))
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    assert (await fetch(romeo, "urn:3")).text == "", "all or nothing"
    assert (await store(romeo, E("a", "urn:3", "3"))).type == "result"
    reply = await store(romeo, E("a", "urn:4", "4"))
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    assert (await store(romeo, E("a", "urn:3", "changed"))).type == "result"
    assert (await store(juliet, E("a", "urn:4", "hers"))).type == "result", "others have their own"


@small
async def test_a_vcard_is_bounded(romeo: Client) -> None:
    card = E("vCard", ns.VCARD, E("FN", ns.VCARD, "Romeo"))
    assert (await romeo.iq("set", payload=card)).type == "result"
    big = E("vCard", ns.VCARD, E("PHOTO", ns.VCARD, E("BINVAL", ns.VCARD, "x" * 2_100)))
    reply = await romeo.iq("set", payload=big)
    assert (reply.type, reply.condition) == ("error", "not-acceptable")
    kept = await romeo.iq("get", payload=E("vCard", ns.VCARD))
    assert kept.at(("vCard", ns.VCARD), "FN").text == "Romeo"


async def test_storing_much_again_and_again_leaves_no_memory_behind(
    clients: Clients, server: Server
) -> None:
    hoarders = [await clients.online(kind="direct") for _ in range(4)]

    async def hoard(rounds: int) -> None:
        for i in range(rounds):
            for one in hoarders:
                card = E("vCard", ns.VCARD, E("NOTE", ns.VCARD, f"{i}" + "x" * 150_000))
                assert (await one.iq("set", payload=card)).type == "result"
                assert (await store(one, E("a", "urn:1", f"{i}" + "x" * 100_000))).type == "result"

    await hoard(3)
    before = resident_kb(server)
    async with Bystanders(clients):
        await hoard(15)
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB
