# SPDX-License-Identifier: Apache-2.0
"""XEP-0430 Inbox: conversations, the newest first, on the same entries as the other inbox."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from support import ns
from support.archive import MAM_2, XEP_0430, archive, rsm, said, set_entry
from support.client import Client
from support.play import Clients
from support.xml import E, Element

pytestmark = pytest.mark.ours("a protocol of few servers")


@dataclass
class Listed:
    """An answer: the entries with their messages, and its end."""

    entries: list[Element]
    results: list[Element | None]
    fin: Element

    @property
    def jids(self) -> list[str | None]:
        """Whose conversations."""
        return [entry.get("jid") for entry in self.entries]

    @property
    def counts(self) -> tuple[str | None, ...]:
        """total, unread and all-unread."""
        return tuple(self.fin.get(name) for name in ("total", "unread", "all-unread"))


async def listed(client: Client, *children: Element, **attrs: object) -> Listed:
    """The client's inbox (#query); names of attributes with `_` for `-`."""
    client.drain()
    named = E("inbox", XEP_0430, *children)
    named.attrs.update({name.replace("_", "-"): str(value) for name, value in attrs.items()})
    reply = await client.iq("get", payload=named)
    assert reply.type == "result", f"refused: {reply}"
    messages = [e for e in client.drain() if e.has("entry", XEP_0430)]
    assert all((m.frm, m.to) == (client.bare, client.jid) for m in messages)
    results = [m.child("result", MAM_2) for m in messages]
    assert all(r is None or r.get("queryid") == reply.id for r in results)
    entries = [m.at(("entry", XEP_0430)) for m in messages]
    return Listed(entries, results, reply.at(("fin", XEP_0430)))


async def test_the_inbox_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.bare, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert XEP_0430 in features


async def test_entries_have_counts_the_last_id_and_the_last_message(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # examples 1 to 3
    nurse = await clients.online()
    await said(romeo, juliet, "1", "2", "3")
    await said(juliet, nurse, "4")
    found = await listed(juliet)
    assert found.jids == [nurse.bare, romeo.bare]
    assert [entry.get("unread") for entry in found.entries] == ["0", "3"]
    assert found.counts == ("2", "1", "3")
    kept = (await archive(juliet)).results
    assert [entry.get("id") for entry in found.entries] == [kept[3].id, kept[2].id]
    for result, one in zip(found.results, (kept[3], kept[2]), strict=True):
        assert result is not None
        assert result.get("id") == one.id
        inner = result.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
        assert inner.body == one.body


async def test_messages_and_read_conversations_can_be_left_out(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    await said(romeo, juliet, "1")
    await said(juliet, nurse, "2")
    found = await listed(juliet, messages="false")
    assert found.results == [None, None]
    found = await listed(juliet, unread_only="true")
    assert found.jids == [romeo.bare]
    assert found.counts == ("1", "1", "1")


async def test_it_comes_in_pages(clients: Clients, juliet: Client) -> None:
    peers = [await clients.online() for _ in range(5)]
    for peer in peers:
        await said(peer, juliet, "x")
    found: list[str | None] = []
    part: dict[str, object] = {"max": 2}
    while True:
        page = await listed(juliet, rsm(**part), messages="false")
        if not page.entries:
            break
        assert page.counts == ("5", "5", "5")
        found += page.jids
        part = {"max": 2, "after": page.fin.at(("set", ns.RSM), "last").text}
    assert found == [peer.bare for peer in reversed(peers)]


async def test_both_inboxes_are_one(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "1", "2")
    await set_entry(juliet, romeo.bare, read="true")
    found = await listed(juliet)
    assert [entry.get("unread") for entry in found.entries] == ["0"]
    await set_entry(juliet, romeo.bare, box="bin")
    assert (await listed(juliet)).jids == []


@pytest.mark.parametrize("name", ["messages", "unread-only"])
async def test_a_bad_flag_is_refused(romeo: Client, name: str) -> None:
    query = E("inbox", XEP_0430)
    query.attrs[name] = "perhaps"
    reply = await romeo.iq("get", payload=query)
    assert (reply.condition, reply.error_type) == ("bad-request", "modify")


async def test_the_inbox_of_another_is_forbidden(romeo: Client, juliet: Client) -> None:
    reply = await juliet.iq("get", to=romeo.bare, payload=E("inbox", XEP_0430))
    assert reply.condition == "forbidden"
