# SPDX-License-Identifier: Apache-2.0
"""XEP-0313 Message Archive Management: what is archived, and every way to ask for it."""

from __future__ import annotations

import datetime

import pytest

from support import ns
from support.archive import (
    ALL_MAM,
    FULLTEXT,
    MAM_0,
    MAM_1,
    MAM_2,
    MAM_TMP,
    Ask,
    archive,
    chat,
    numbered,
    place,
    refused,
    said,
    taken,
)
from support.client import Client, fence
from support.component import Component
from support.play import Clients
from support.xml import E, Element, iq, message

pytestmark = pytest.mark.ours("other servers are configured in their own way")

OLD = (MAM_1, MAM_0, MAM_TMP)


async def features(client: Client, to: str) -> set[str | None]:
    """What an entity announces to this client."""
    reply = await client.iq("get", to=to, payload=E("query", ns.DISCO_INFO))
    if reply.type == "error":
        return set()
    return {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}


# What is announced, #support.


async def test_the_archive_is_announced_by_the_account_to_its_owner(
    romeo: Client, juliet: Client
) -> None:
    own = await features(romeo, romeo.bare)
    wanted = {*ALL_MAM, f"{MAM_2}#extended", f"{MAM_2}#groupchat-field", "urn:xmpp:fulltext:0"}
    assert wanted <= own
    assert f"{MAM_2}#groupchat-available" not in own
    assert not wanted & await features(juliet, romeo.bare)


@pytest.mark.settings(archive={"enabled": False})
async def test_an_archive_that_is_off_is_not_there(romeo: Client, juliet: Client) -> None:
    own = await features(romeo, romeo.bare)
    assert not {*ALL_MAM, "urn:xmpp:fulltext:0", "urn:xmpp:inbox:1"} & own
    (got,) = await said(romeo, juliet, "x")
    assert not got.has("stanza-id", ns.SID)
    for dialect in ALL_MAM:
        kind = "get" if dialect == MAM_TMP else "set"
        reply = await juliet.iq(kind, payload=E("query", dialect))
        assert reply.condition == "service-unavailable"


# What is archived, #archives-user.


async def test_a_message_is_in_both_archives_as_it_was_sent(romeo: Client, juliet: Client) -> None:
    before = datetime.datetime.now(datetime.UTC)
    extra = E("mood", "http://jabber.org/protocol/mood", E("happy", None))
    sent = chat(juliet.jid, "Call me but love", extra)
    romeo.send(sent)
    got = await juliet.expect("message")
    for client in (romeo, juliet):
        page = await archive(client)
        (found,) = page.results
        inner = found.message
        assert (inner.frm, inner.to, inner.type, inner.id) == (
            romeo.jid,
            juliet.jid,
            "chat",
            sent.id,
        )
        assert inner.body == "Call me but love"
        assert inner.has("mood", "http://jabber.org/protocol/mood")
        assert place(inner, client.bare) is None
        assert (found.outer.frm, found.outer.to) == (client.bare, client.jid)
        at = datetime.datetime.fromisoformat(found.stamp)
        assert abs((at - before).total_seconds()) < 30
        assert page.is_complete
        assert (page.rsm("first"), page.rsm("last")) == (found.id, found.id)
        # A store that would have to read them all says no number.
        assert page.count in (1, None)
        if client is juliet:
            # XEP-0313 #archives-id: the live message tells its id.
            assert place(got, juliet.bare) == found.id


OMEMO = E("encrypted", "urn:xmpp:omemo:2", E("payload", None, "x"))
KEPT = {
    "chat": ("chat", [E("body", None, "x")]),
    "normal": (None, [E("body", None, "x")]),
    "encrypted": ("chat", [OMEMO]),
    "declared as encrypted": ("chat", [E("encryption", "urn:xmpp:eme:0", namespace="x")]),
    "asked to be stored": ("chat", [E("y", "urn:y"), E("store", ns.HINTS)]),
    "displayed": ("chat", [E("displayed", ns.MARKERS, id="1")]),
    "received": ("chat", [E("received", ns.MARKERS, id="1")]),
    "acknowledged": ("chat", [E("acknowledged", ns.MARKERS, id="1")]),
    "receipt": ("chat", [E("received", ns.RECEIPTS, id="1")]),
    "retraction": ("chat", [E("retract", "urn:xmpp:message-retract:1", id="1")]),
    "reaction": ("chat", [E("reactions", "urn:xmpp:reactions:0", id="1")]),
    "call": ("chat", [E("propose", ns.JINGLE_MESSAGE, id="1")]),
}
NOT_KEPT = {
    "chat state": ("chat", [E("composing", ns.CHATSTATES)]),
    "receipt asked for": ("chat", [E("request", ns.RECEIPTS)]),
    "no store": ("chat", [E("body", None, "x"), E("no-store", ns.HINTS)]),
    "no permanent store": ("chat", [E("body", None, "x"), E("no-permanent-store", ns.HINTS)]),
    "headline": ("headline", [E("body", None, "x")]),
    "error": ("error", [E("body", None, "x"), E("error", None, E("gone", ns.STANZAS))]),
    "nothing": ("chat", [E("y", "urn:y")]),
}


@pytest.mark.parametrize(("kind", "children"), KEPT.values(), ids=KEPT.keys())
async def test_what_belongs_to_a_conversation_is_archived(
    romeo: Client, juliet: Client, kind: str | None, children: list[Element]
) -> None:
    # requirements 7: the column MAM
    romeo.send(message(juliet.jid, *children, type=kind, id="m1"))
    await juliet.expect("message", id="m1")
    for client in (romeo, juliet):
        (found,) = (await archive(client)).results
        assert found.message.id == "m1"


@pytest.mark.parametrize(("kind", "children"), NOT_KEPT.values(), ids=NOT_KEPT.keys())
async def test_what_passes_by_is_not_archived(
    romeo: Client, juliet: Client, kind: str | None, children: list[Element]
) -> None:
    romeo.send(message(juliet.jid, *children, type=kind, id="m1"))
    got = await juliet.expect("message", id="m1")
    assert place(got, juliet.bare) is None
    for client in (romeo, juliet):
        assert (await archive(client)).results == []


async def test_a_message_is_archived_once_however_many_get_it(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # #archives-user: forked and carbon-copied messages
    second = await clients.online(juliet, resource="chamber")
    for client in (juliet, second):
        await client.iq("set", payload=E("enable", ns.CARBONS))
    romeo.send(chat(juliet.bare, "to all of you"))
    romeo.send(chat(juliet.jid, "to one of you"))
    await fence(romeo, juliet)
    await fence(romeo, second)
    assert (await archive(juliet)).bodies == ["to all of you", "to one of you"]
    assert (await archive(romeo)).bodies == ["to all of you", "to one of you"]


async def test_a_blocked_message_is_not_in_the_archive_of_who_blocks(
    romeo: Client, juliet: Client
) -> None:
    # #archives: what the archive's entity refuses is not archived
    item = E("item", None, jid=romeo.bare)
    await juliet.iq("set", payload=E("block", ns.BLOCKING, item))
    romeo.send(chat(juliet.jid, "x"))
    assert (await romeo.expect("message", type="error")).condition
    assert (await archive(juliet)).results == []


async def test_a_note_to_oneself_is_there_once(clients: Clients, romeo: Client) -> None:
    juliet = await clients.online()
    await said(romeo, juliet, "to her")
    romeo.send(chat(romeo.bare, "to me"))
    await romeo.expect(lambda e: e.body == "to me")
    assert (await archive(romeo)).bodies == ["to her", "to me"]
    # #filter-jid: the owner's own address finds only messages to himself
    assert (await archive(romeo, **{"with": romeo.bare})).bodies == ["to me"]


async def test_results_are_neither_archived_nor_copied(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    second = await clients.online(juliet, resource="chamber")
    await second.iq("set", payload=E("enable", ns.CARBONS))
    await said(romeo, juliet, "x")
    await second.sync()
    second.drain()
    for _ in range(3):
        assert (await archive(juliet)).bodies == ["x"]
    await second.expect_nothing("message", within_s=0.1)


async def test_results_count_in_stream_management(clients: Clients, romeo: Client) -> None:
    late = clients.server.account()
    for number in range(5):
        romeo.send(chat(late.jid, str(number)))
    await romeo.sync()
    juliet = await clients.bound(late)
    await juliet.sm_enable()
    assert len((await archive(juliet)).results) == 5
    assert juliet.sm is not None
    assert juliet.sm.received == 6
    juliet.send(E("a", ns.SM, h=6))
    await juliet.sync()
    assert not juliet.closed_stream


# Metadata, form, access.


async def test_the_metadata_name_the_ends_of_the_archive(romeo: Client, juliet: Client) -> None:
    reply = await romeo.iq("get", payload=E("metadata", MAM_2))
    assert not list(reply.at(("metadata", MAM_2)))
    await said(romeo, juliet, "a", "b", "c")
    found = (await archive(romeo)).results
    reply = await romeo.iq("get", payload=E("metadata", MAM_2))
    ends = reply.at(("metadata", MAM_2))
    for name, one in (("start", found[0]), ("end", found[-1])):
        end = ends.at(name)
        assert (end.get("id"), end.get("timestamp")) == (one.id, one.stamp)


@pytest.mark.parametrize("dialect", [MAM_2, MAM_1, MAM_0])
async def test_the_form_has_the_fields_of_a_query(romeo: Client, dialect: str) -> None:
    # #query-form
    reply = await romeo.iq("get", payload=E("query", dialect))
    found = reply.at(("query", dialect), ("x", ns.DATA_FORMS))
    kinds = {f.get("var"): f.get("type") for f in found.all("field")}
    assert found.at("field").at("value").text == dialect
    assert {
        "with": "jid-single",
        "start": "text-single",
        "end": "text-single",
        "before-id": "text-single",
        "after-id": "text-single",
        "ids": "list-multi",
        "include-groupchat": "boolean",
        FULLTEXT: "text-single",
    }.items() <= kinds.items()
    assert not any(f.has("required") for f in found.all("field"))
    ids = next(f for f in found.all("field") if f.get("var") == "ids")
    validate = "http://jabber.org/protocol/xdata-validate"
    assert ids.at(("validate", validate)).has("open")


@pytest.mark.parametrize("dialect", ALL_MAM)
async def test_the_archive_of_another_is_forbidden(
    romeo: Client, juliet: Client, component: Component, dialect: str
) -> None:
    # #security-privacy
    await said(romeo, juliet, "x")
    kind = "get" if dialect == MAM_TMP else "set"
    for to in (romeo.bare, f"nobody@{romeo.host}"):
        reply = await refused(juliet, Ask(dialect=dialect, to=to))
        assert (reply.condition, reply.error_type) == ("forbidden", "auth")
    stanza = iq(kind, E("query", dialect), to=romeo.bare, from_=component.jid, id="c1")
    component.send(stanza)
    reply = await component.expect("iq", id="c1")
    assert reply.condition == "forbidden"
    reply = await juliet.iq("get", to=romeo.bare, payload=E("metadata", MAM_2))
    assert reply.condition == "forbidden"


async def test_a_node_of_the_archive_is_not_found(romeo: Client) -> None:
    # #archives-pubsub reserves the attribute
    reply = await refused(romeo, Ask(attrs={"node": "princely_musings"}))
    assert reply.condition == "item-not-found"


# Dialects, mam-fulltext.md §4.


async def order(client: Client, ask: Ask) -> tuple[list[str], Element]:
    """In which order an answer comes: `result`, `iq` and `fin`; and its IQ."""
    kind = "get" if ask.dialect == MAM_TMP else "set"
    id_ = client.send(E("iq", ns.CLIENT, ask.payload("q"), type=kind, id=client.next_id()))
    seen: list[str] = []
    reply: Element | None = None
    ends = 2 if ask.dialect == MAM_0 else 1
    while ends:
        got = await client.next()
        if got.name == "iq" and got.id == id_:
            reply = got
            seen.append("iq")
            ends -= 1
        elif got.has("result", ask.dialect):
            seen.append("result")
        elif got.has("fin", MAM_0):
            seen.append("fin")
            ends -= 1
    assert reply is not None
    return seen, reply


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (MAM_2, ["result"] * 9 + ["iq"]),
        (MAM_1, ["result"] * 9 + ["iq"]),
        (MAM_0, ["iq"] + ["result"] * 9 + ["fin"]),
        (MAM_TMP, ["result"] * 9 + ["iq"]),
    ],
)
async def test_an_answer_comes_in_the_order_of_its_dialect(
    romeo: Client, juliet: Client, dialect: str, expected: list[str]
) -> None:
    await numbered(romeo, juliet, 9)
    romeo.drain()
    seen, _ = await order(romeo, Ask(dialect=dialect))
    assert seen == expected


@pytest.mark.parametrize("dialect", OLD)
async def test_old_dialects_see_the_same_archive(
    clients: Clients, romeo: Client, juliet: Client, dialect: str
) -> None:
    talk = await numbered(romeo, juliet, 6)
    await said(romeo, await clients.online(), "elsewhere")
    fields: dict[str, object] = {"with": juliet.bare, "start": talk[2].stamp}
    new = await archive(romeo, Ask(fields, {"max": 3}))
    old = await archive(romeo, Ask(fields, {"max": 3}, dialect=dialect))
    assert (old.ids, old.bodies) == (new.ids, new.bodies)
    for name in ("first", "last", "count"):
        assert old.rsm(name) == new.rsm(name)
    part = {"max": 3, "after": old.rsm("last") or ""}
    rest = await archive(romeo, Ask(fields, part, dialect=dialect))
    assert rest.ids == (await archive(romeo, Ask(fields, part))).ids


@pytest.mark.parametrize("dialect", [MAM_1, MAM_0])
async def test_old_forms_are_checked_like_new_ones(romeo: Client, dialect: str) -> None:
    reply = await refused(romeo, Ask({"{urn:example}x": "y"}, dialect=dialect))
    assert reply.condition == "feature-not-implemented"
    reply = await refused(romeo, Ask({"start": "soon"}, dialect=dialect))
    assert reply.condition == "bad-request"


@pytest.mark.settings(archive={"page_max": 5})
async def test_the_oldest_dialect_refuses_to_send_too_much_unasked(
    romeo: Client, juliet: Client
) -> None:
    await said(romeo, juliet, *"12345")
    assert len((await archive(romeo, Ask(dialect=MAM_TMP))).results) == 5
    await said(romeo, juliet, "6")
    reply = await refused(romeo, Ask(dialect=MAM_TMP))
    assert (reply.condition, reply.error_type) == ("policy-violation", "modify")
    assert len((await archive(romeo, Ask(rsm={"max": 10}, dialect=MAM_TMP))).results) == 5


async def test_filters_of_the_oldest_dialect_stand_once(romeo: Client) -> None:
    twice = E("query", MAM_TMP, E("with", None, "a.example"), E("with", None, "b.example"))
    reply = await romeo.iq("get", payload=twice)
    assert reply.condition == "bad-request"


@pytest.mark.parametrize("dialect", ALL_MAM)
async def test_who_asks_in_an_old_dialect_is_told_places_as_it_has_them(
    romeo: Client, juliet: Client, dialect: str
) -> None:
    # XEP-0313 0.2, example 1; XEP-0359 came later
    forged = E("archived", MAM_TMP, by=juliet.bare, id="forged")
    (before,) = await said(romeo, juliet, "1")
    assert not before.has("archived", MAM_TMP)
    await archive(juliet, Ask(dialect=dialect))
    romeo.send(chat(juliet.jid, "2", forged, id="second"))
    got = await juliet.expect("message", id="second")
    last = (await archive(juliet)).ids[-1]
    assert place(got, juliet.bare) == last
    told = [(e.get("by"), e.get("id")) for e in got.all("archived", MAM_TMP)]
    assert told == ([(juliet.bare, last)] if dialect in (MAM_0, MAM_TMP) else [])
    # It is the recipient's: what he sends does not tell it to others.
    (back,) = await said(juliet, romeo, "3")
    assert not back.has("archived", MAM_TMP)


# Beside other features.


async def test_who_reads_the_archive_gets_no_offline_messages_again(
    clients: Clients, romeo: Client
) -> None:
    # #archives-user, last paragraph
    absent = clients.server.account()
    romeo.send(chat(absent.jid, "1"))
    romeo.send(chat(absent.jid, "2"))
    await romeo.sync()
    late = await clients.bound(absent)
    page = await archive(late)
    assert page.bodies == ["1", "2"]
    await late.online()
    await late.sync()
    assert [e.body for e in late.drain() if e.name == "message"] == []
    romeo.send(chat(late.jid, "3"))
    await late.expect(lambda e: e.body == "3")
    assert (await archive(late)).bodies == ["1", "2", "3"]


async def test_who_does_not_gets_them_with_their_place(clients: Clients, romeo: Client) -> None:
    absent = clients.server.account()
    romeo.send(chat(absent.jid, "1"))
    await romeo.sync()
    late = await clients.online(absent)
    got = await late.expect(lambda e: e.body == "1")
    page = await archive(late)
    assert page.bodies == ["1"]
    assert place(got, late.bare) == page.ids[0]
    assert not page.results[0].message.has("delay", ns.DELAY)


async def test_the_archive_outlives_its_sessions(clients: Clients, romeo: Client) -> None:
    juliet = await clients.online()
    await said(romeo, juliet, "x")
    ids = (await archive(juliet)).ids
    await juliet.close()
    again = await clients.online(juliet)
    assert (await archive(again)).ids == ids


async def test_two_questions_at_once_do_not_mix(romeo: Client, juliet: Client) -> None:
    await numbered(romeo, juliet, 9)
    for query_id, most in (("a", 3), ("b", 4)):
        part = Ask(rsm={"max": most}).payload(query_id)
        romeo.send(E("iq", ns.CLIENT, part, type="set", id=f"i-{query_id}"))
    for query_id in "ab":
        await romeo.expect("iq", id=f"i-{query_id}")
    assert [f.body for f in taken(romeo, MAM_2, "a")] == ["0", "1", "2"]
    assert [f.body for f in taken(romeo, MAM_2, "b")] == ["0", "1", "2", "3"]


async def test_a_query_without_a_queryid_gets_results_without(
    romeo: Client, juliet: Client
) -> None:
    await numbered(romeo, juliet, 9)
    reply = await romeo.iq("set", payload=E("query", MAM_2))
    assert reply.type == "result"
    assert len(taken(romeo, MAM_2, None)) == 9
