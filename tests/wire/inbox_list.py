# SPDX-License-Identifier: Apache-2.0
"""The inbox as a list: fields, pages and order, in both protocols (inbox.md §3, XEP-0430 beside)."""

from __future__ import annotations

import asyncio

import pytest

from support import ns
from support.archive import Entry, Inbox, inbox, inbox_query, said, set_entry
from support.client import Client
from support.play import Clients
from support.xml import Element

pytestmark = pytest.mark.ours("a protocol of few servers")

PEERS = 20


@pytest.fixture
async def peers(clients: Clients, juliet: Client) -> list[Client]:
    """Twenty who wrote to Juliet one after another; every other one she has read."""
    made = [await clients.online() for _ in range(PEERS)]
    for peer in made:
        await said(peer, juliet, peer.bare)
        await asyncio.sleep(0.002)
    for peer in made[::2]:
        await set_entry(juliet, peer.bare, read="true")
    return made


def names(entries: list[Entry]) -> list[str | None]:
    """Whose conversations: each has the peer's address as its text."""
    return [entry.body for entry in entries]


async def test_the_list_is_by_the_last_message(juliet: Client, peers: list[Client]) -> None:
    expected = [peer.bare for peer in peers]
    assert names((await inbox(juliet)).entries) == expected[::-1]
    assert names((await inbox(juliet, order="desc")).entries) == expected[::-1]
    assert names((await inbox(juliet, order="asc")).entries) == expected
    await said(peers[3], juliet, expected[3])
    moved = [*expected[:3], *expected[4:], expected[3]]
    assert names((await inbox(juliet, order="asc")).entries) == moved


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("way", ["after", "before"])
async def test_pages_of_seven_give_every_entry_once(
    juliet: Client, peers: list[Client], order: str, way: str
) -> None:
    expected = [peer.bare for peer in peers]
    if order == "desc":
        expected = expected[::-1]
    found: list[str | None] = []
    part: dict[str, object] = {"max": 7} if way == "after" else {"max": 7, "before": ""}
    while True:
        page = await inbox(juliet, part, order=order)
        if not page.entries:
            break
        assert page.number("count") == PEERS
        texts = names(page.entries)
        found = [*found, *texts] if way == "after" else [*texts, *found]
        end = page.rsm("last" if way == "after" else "first")
        part = {"max": 7, way: end or ""}
    assert found == expected


async def test_an_entry_that_changes_between_pages_is_not_seen_twice(
    juliet: Client, peers: list[Client]
) -> None:
    first = await inbox(juliet, {"max": 7})
    await said(peers[0], juliet, peers[0].bare)
    await said(peers[-3], juliet, peers[-3].bare)
    second = await inbox(juliet, {"max": 7, "after": first.rsm("last") or ""})
    third = await inbox(juliet, {"max": 7, "after": second.rsm("last") or ""})
    later = names([*second.entries, *third.entries])
    assert len(set(later)) == len(later)
    assert not {*names(first.entries), peers[0].bare} & set(later)


async def test_counts_are_those_of_all_that_is_asked_for(
    juliet: Client, peers: list[Client]
) -> None:
    def counts(found: Inbox) -> tuple[int, ...]:
        kinds = ("count", "unread-messages", "active-conversations")
        return tuple(found.number(kind) for kind in kinds)

    await said(peers[1], juliet, peers[1].bare)
    assert counts(await inbox(juliet, {"max": 3})) == (20, 11, 10)
    only = await inbox(juliet, {"max": 0})
    assert (only.entries, counts(only)) == ([], (20, 11, 10))
    assert counts(await inbox(juliet, hidden_read="true")) == (10, 11, 10)
    assert counts(await inbox(juliet, box="archive")) == (0, 0, 0)


async def test_read_conversations_can_be_hidden(juliet: Client, peers: list[Client]) -> None:
    found = await inbox(juliet, hidden_read="true", order="asc")
    assert names(found.entries) == [peer.bare for peer in peers[1::2]]
    found = await inbox(juliet, hidden_read="false")
    assert len(found.entries) == PEERS


async def test_start_and_end_bound_the_last_message(juliet: Client, peers: list[Client]) -> None:
    entries = (await inbox(juliet, order="asc")).entries
    low, high = entries[5].stamp, entries[11].stamp
    found = await inbox(juliet, start=low, end=high, order="asc")
    wanted = [e.body for e in entries if low <= e.stamp <= high]
    assert names(found.entries) == wanted
    assert (await inbox(juliet, start="2999-01-01T00:00:00Z")).entries == []
    assert (await inbox(juliet, end="1066-01-01T00:00:00Z")).entries == []


async def test_boxes_are_apart(juliet: Client, peers: list[Client]) -> None:
    await set_entry(juliet, peers[0].bare, box="archive")
    await set_entry(juliet, peers[1].bare, box="bin")
    everywhere = {peer.bare for peer in peers}
    for fields, wanted in (
        ({"box": "archive"}, {peers[0].bare}),
        ({"box": "bin"}, {peers[1].bare}),
        ({"box": "inbox"}, everywhere - {peers[0].bare, peers[1].bare}),
        ({}, everywhere - {peers[1].bare}),
        ({"box": "all"}, everywhere),
        ({"archive": "true"}, {peers[0].bare}),
        ({"archive": "false"}, everywhere - {peers[0].bare, peers[1].bare}),
        ({"archive": "true", "box": "bin"}, {peers[1].bare}),
    ):
        assert set(names((await inbox(juliet, **fields)).entries)) == wanted, fields


BAD: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "order": ({"order": "up"}, {}),
    "box": ({"box": "nope"}, {}),
    "hidden_read": ({"hidden_read": "maybe"}, {}),
    "archive": ({"archive": "maybe"}, {}),
    "start": ({"start": "soon"}, {}),
    "end": ({"end": "2026-02-30T00:00:00Z"}, {}),
    "unknown": ({"unknown": "value"}, {}),
    "max": ({}, {"max": "many"}),
    "index": ({}, {"max": 5, "index": 3}),
}


@pytest.mark.parametrize(("fields", "part"), BAD.values(), ids=BAD.keys())
async def test_a_bad_value_is_named(
    juliet: Client, fields: dict[str, object], part: dict[str, object]
) -> None:
    reply = await juliet.iq("set", payload=inbox_query("q", fields, part))
    assert (reply.condition, reply.error_type) == ("bad-request", "modify")
    text = reply.at("error").at(("text", ns.STANZAS)).text
    for name, value in fields.items():
        assert name in text
        assert str(value) in text


@pytest.mark.parametrize("way", ["after", "before"])
async def test_an_unknown_position_is_not_found(juliet: Client, way: str) -> None:
    reply = await juliet.iq("set", payload=inbox_query("q", {}, {"max": 5, way: "nowhere"}))
    assert reply.condition == "item-not-found"


async def test_without_a_queryid_the_requests_id_is_used(
    juliet: Client, peers: list[Client]
) -> None:
    query = inbox_query("", {}, {"max": 1})
    del query.attrs["queryid"]
    juliet.drain()
    reply = await juliet.iq("set", payload=query)

    def fits(element: Element) -> bool:
        result = element.child("result", query.ns)
        return result is not None and result.get("queryid") == reply.id

    await juliet.expect(fits)
