# SPDX-License-Identifier: Apache-2.0
"""XEP-0136 Message Archiving: old clients read the archive of XEP-0313 as collections."""

from __future__ import annotations

import datetime

import pytest

from support import ns
from support.archive import archive, rsm, said
from support.client import Client
from support.play import Clients
from support.xml import E, Element

pytestmark = pytest.mark.ours("other servers have no such archive")

ARCHIVE = "urn:xmpp:archive"


def asked(name: str, *children: Element, **attrs: object) -> Element:
    """A request; `with_` is the attribute `with`."""
    return E(name, ARCHIVE, *children, **attrs)


async def listed(client: Client, *children: Element, **attrs: object) -> list[Element]:
    """The collections of `<list/>`."""
    reply = await client.iq("get", payload=asked("list", *children, **attrs))
    assert reply.type == "result", f"refused: {reply}"
    return reply.at(("list", ARCHIVE)).all("chat")


async def retrieved(client: Client, chat: Element, *children: Element) -> Element:
    """A collection with its messages."""
    attrs = {"with_": chat.get("with"), "start": chat.get("start")}
    reply = await client.iq("get", payload=asked("retrieve", *children, **attrs))
    assert reply.type == "result", f"refused: {reply}"
    return reply.at(("chat", ARCHIVE))


def lines(chat: Element) -> list[tuple[str, str]]:
    """Who said what: `to` is what the owner said."""
    found = [c for c in chat if c.name in ("from", "to") and c.ns == ARCHIVE]
    return [(c.name, c.at("body").text) for c in found]


async def test_the_adapter_is_announced(romeo: Client) -> None:
    # XEP-0136 §9
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert {f"{ARCHIVE}:auto", f"{ARCHIVE}:manage"} <= features
    assert f"{ARCHIVE}:manual" not in features


async def test_conversations_are_collections(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    assert await listed(romeo) == []
    nurse = await clients.online()
    await said(romeo, juliet, "Art thou not Romeo?")
    await said(juliet, romeo, "Neither, fair saint")
    await said(romeo, nurse, "Nurse!")
    chats = await listed(romeo)
    assert [chat.get("with") for chat in chats] == [juliet.bare, nurse.bare]
    found = (await archive(romeo)).results
    assert [chat.get("start") for chat in chats] == [found[0].stamp, found[2].stamp]
    assert [chat.get("version") for chat in chats] == ["0", "0"]
    chat = await retrieved(romeo, chats[0])
    assert lines(chat) == [("to", "Art thou not Romeo?"), ("from", "Neither, fair saint")]
    assert chat.at("to").get("secs") == "0"
    assert lines(await retrieved(romeo, chats[1])) == [("to", "Nurse!")]


async def test_collections_are_found_by_address_and_time(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    await said(romeo, juliet, "x")
    await said(romeo, nurse, "y")
    for with_, count in ((juliet.bare, 1), (juliet.jid, 1), (juliet.host, 2), ("a.example", 0)):
        assert len(await listed(romeo, with_=with_)) == count, with_
    assert await listed(romeo, with_=juliet.host, exactmatch="true") == []
    now = datetime.datetime.now(datetime.UTC)
    later = (now + datetime.timedelta(minutes=1)).isoformat()
    earlier = (now - datetime.timedelta(minutes=1)).isoformat()
    assert len(await listed(romeo, start=earlier, end=later)) == 2
    assert await listed(romeo, start=later) == []
    assert await listed(romeo, end=earlier) == []


async def test_lists_and_collections_come_in_pages(clients: Clients, romeo: Client) -> None:
    peers = [await clients.online() for _ in range(5)]
    for peer in peers:
        await said(romeo, peer, "hello")
    for peer in peers:
        await said(romeo, peer, "and again")
    found: list[str | None] = []
    part: dict[str, object] = {"max": 2}
    while True:
        reply = await romeo.iq("get", payload=asked("list", rsm(**part)))
        answer = reply.at(("list", ARCHIVE))
        if not answer.all("chat"):
            break
        found += [chat.get("with") for chat in answer.all("chat")]
        part = {"max": 2, "after": answer.at(("set", ns.RSM), "last").text}
    assert found == [peer.bare for peer in peers]
    last = await listed(romeo, rsm(max=2, before=""))
    assert [chat.get("with") for chat in last] == [peer.bare for peer in peers[3:]]
    (first, *_) = await listed(romeo)
    chat = await retrieved(romeo, first, rsm(max=1))
    assert lines(chat) == [("to", "hello")]
    result = chat.at(("set", ns.RSM))
    assert result.at("count").text == "2"
    chat = await retrieved(romeo, first, rsm(max=1, after=result.at("last").text))
    assert lines(chat) == [("to", "and again")]
    assert chat.at("to").get("utc")


async def test_a_collection_that_is_not_there(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "x")
    for with_, start in (
        (juliet.bare, "2001-01-01T00:00:00Z"),
        ("nobody@a.example", datetime.datetime.now(datetime.UTC).isoformat()),
    ):
        payload = asked("retrieve", with_=with_, start=start)
        assert (await romeo.iq("get", payload=payload)).condition == "item-not-found"
        remove = asked("remove", with_=with_, start=start)
        assert (await romeo.iq("set", payload=remove)).condition == "item-not-found"


async def test_a_conversation_can_be_removed(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    await said(romeo, juliet, "x", "y")
    await said(romeo, nurse, "z")
    (chat, _) = await listed(romeo)
    remove = asked("remove", with_=chat.get("with"), start=chat.get("start"))
    assert (await romeo.iq("set", payload=remove)).type == "result"
    assert (await archive(romeo)).bodies == ["z"]
    assert (await archive(juliet)).bodies == ["x", "y"]
    assert (await romeo.iq("set", payload=asked("remove"))).type == "result"
    assert (await archive(romeo)).bodies == []
    await said(romeo, juliet, "a new one")
    assert (await archive(romeo)).bodies == ["a new one"]


async def test_automatic_archiving_is_turned_off_and_on(romeo: Client, juliet: Client) -> None:
    reply = await romeo.iq("get", payload=asked("pref"))
    pref = reply.at(("pref", ARCHIVE))
    assert pref.at("auto").get("save") == "true"
    assert {m.get("type") for m in pref.all("method")} == {"auto", "local", "manual"}
    off = asked("auto", save="false", scope="global")
    assert (await romeo.iq("set", payload=off)).type == "result"
    await said(romeo, juliet, "not kept")
    reply = await romeo.iq("get", payload=asked("pref"))
    assert reply.at(("pref", ARCHIVE), "auto").get("save") == "false"
    on = asked("auto", save="true", scope="global")
    assert (await romeo.iq("set", payload=on)).type == "result"
    await said(romeo, juliet, "kept")
    assert (await archive(romeo)).bodies == ["kept"]
    stream = asked("auto", save="false")
    assert (await romeo.iq("set", payload=stream)).condition == "feature-not-implemented"


@pytest.mark.parametrize(
    ("kind", "payload", "condition"),
    [
        ("get", asked("list", with_="@"), "bad-request"),
        ("get", asked("list", start="soon"), "bad-request"),
        ("get", asked("retrieve", with_="a@b.example"), "bad-request"),
        ("set", asked("auto"), "bad-request"),
        ("set", asked("pref", E("default", None, save="false")), "feature-not-implemented"),
        ("set", asked("save"), "service-unavailable"),
        ("get", asked("modified"), "service-unavailable"),
    ],
)
async def test_what_the_adapter_refuses(
    romeo: Client, kind: str, payload: Element, condition: str
) -> None:
    assert (await romeo.iq(kind, payload=payload)).condition == condition


async def test_collections_of_another_are_forbidden(romeo: Client, juliet: Client) -> None:
    for kind, name in (("get", "list"), ("set", "remove"), ("get", "pref")):
        reply = await juliet.iq(kind, to=romeo.bare, payload=asked(name))
        assert reply.condition == "forbidden"
