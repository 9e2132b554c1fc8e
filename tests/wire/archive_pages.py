# SPDX-License-Identifier: Apache-2.0
"""XEP-0313 Message Archive Management: filters, pages, and that all ways show the same archive."""

from __future__ import annotations

import asyncio
import datetime
import random

import pytest

from support import ns
from support.archive import (
    ALL_MAM,
    Ask,
    Found,
    archive,
    chat,
    numbered,
    place,
    refused,
    said,
    whole,
)
from support.client import Client
from support.play import Clients

pytestmark = pytest.mark.ours("other servers are configured in their own way")


# Order.


async def test_messages_of_one_millisecond_keep_their_order(romeo: Client, juliet: Client) -> None:
    # #archives-order: by id, not by time
    texts = [str(number) for number in range(300)]
    await said(romeo, juliet, *texts)
    for client in (romeo, juliet):
        found = await whole(client, size=40)
        assert [one.body for one in found] == texts
        assert len({one.id for one in found}) == 300
        assert [one.stamp for one in found] == sorted(one.stamp for one in found)


# Filters.


@pytest.fixture
async def talk(clients: Clients, romeo: Client, juliet: Client) -> list[Found]:
    """Romeo's archive: words with two resources of Juliet and with the nurse, at three times."""
    chamber = await clients.online(juliet, resource="chamber")
    nurse = await clients.online(resource="kitchen")
    for peer, text in ((juliet, "a"), (chamber, "b"), (nurse, "c"), (juliet, "d"), (nurse, "e")):
        await said(romeo, peer, text)
        await said(peer, romeo, f"{text}2")
        await asyncio.sleep(0.005)
    return (await archive(romeo)).results


async def test_with_a_bare_address_finds_every_resource(
    romeo: Client, juliet: Client, talk: list[Found]
) -> None:
    both = (await archive(romeo, **{"with": juliet.bare})).bodies
    assert both == ["a", "a2", "b", "b2", "d", "d2"]
    one = (await archive(romeo, **{"with": juliet.jid})).bodies
    assert one == ["a", "a2", "d", "d2"]
    assert (await archive(romeo, **{"with": juliet.host})).bodies == []
    assert (await archive(romeo, **{"with": f"{juliet.bare}/elsewhere"})).bodies == []
    assert (await archive(romeo, **{"with": romeo.bare})).bodies == []
    assert (await archive(romeo, **{"with": juliet.bare.upper()})).bodies == both


async def test_start_and_end_include_their_moment(romeo: Client, talk: list[Found]) -> None:
    at = talk[4].stamp
    later = [one.body for one in talk if one.stamp >= at]
    earlier = [one.body for one in talk if one.stamp <= at]
    assert (await archive(romeo, start=at)).bodies == later
    assert (await archive(romeo, end=at)).bodies == earlier
    same = [one.body for one in talk if one.stamp == at]
    assert (await archive(romeo, start=at, end=at)).bodies == same
    moment = datetime.datetime.fromisoformat(at)
    zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
    shifted = moment.astimezone(zone).isoformat(timespec="microseconds")
    assert (await archive(romeo, start=shifted)).bodies == later
    assert (await archive(romeo, start="2999-01-01T00:00:00Z")).bodies == []
    page = await archive(romeo, end="1066-10-14T00:00:00Z")
    assert (page.bodies, page.is_complete, page.rsm("first")) == ([], True, None)


async def test_bounds_by_id_exclude_their_message(romeo: Client, talk: list[Found]) -> None:
    # #query-limit-id
    ids = [one.id for one in talk]
    bodies = [one.body for one in talk]
    assert (await archive(romeo, **{"after-id": ids[2]})).bodies == bodies[3:]
    assert (await archive(romeo, **{"before-id": ids[2]})).bodies == bodies[:2]
    both = {"after-id": ids[2], "before-id": ids[7]}
    assert (await archive(romeo, **both)).bodies == bodies[3:7]
    swapped = {"after-id": ids[7], "before-id": ids[2]}
    assert (await archive(romeo, **swapped)).bodies == []


async def test_bounds_of_mongooseim_include_their_message(romeo: Client, talk: list[Found]) -> None:
    ids = [one.id for one in talk]
    bodies = [one.body for one in talk]
    both: dict[str, object] = {"from-id": ids[2], "to-id": ids[7], "simple": "true"}
    page = await archive(romeo, **both)
    assert page.bodies == bodies[2:8]
    assert page.count is None
    ends: dict[str, object] = {"from-id": ids[0], "to-id": ids[-1]}
    assert (await archive(romeo, **ends)).bodies == bodies


async def test_messages_can_be_asked_for_by_their_ids(romeo: Client, talk: list[Found]) -> None:
    wanted = [talk[7].id, talk[1].id, talk[7].id]
    page = await archive(romeo, ids=wanted)
    assert page.ids == [talk[1].id, talk[7].id]
    assert page.is_complete


async def test_filters_hold_together(romeo: Client, juliet: Client, talk: list[Found]) -> None:
    fields: dict[str, object] = {
        "with": juliet.bare,
        "after-id": talk[0].id,
        "start": talk[0].stamp,
        "end": talk[7].stamp,
        "include-groupchat": "false",
    }
    wanted = [
        one.body
        for one in talk[1:]
        if one.stamp <= talk[7].stamp
        and juliet.bare in (one.message.frm or "") + (one.message.to or "")
    ]
    assert (await archive(romeo, **fields)).bodies == wanted
    fields["include-groupchat"] = "true"
    assert (await archive(romeo, **fields)).bodies == wanted


UNKNOWN = "01941f29-7c00-7000-8000-000000000000"


@pytest.mark.parametrize("id_", [UNKNOWN, "x", "' OR 1=1 --"])
@pytest.mark.parametrize("field", ["after-id", "before-id", "ids", "from-id", "to-id"])
async def test_an_unknown_id_in_the_form_is_not_found(
    romeo: Client, juliet: Client, field: str, id_: str
) -> None:
    await said(romeo, juliet, "x")
    reply = await refused(romeo, Ask({field: id_}))
    assert (reply.condition, reply.error_type) == ("item-not-found", "cancel")


@pytest.mark.parametrize("dialect", ALL_MAM)
@pytest.mark.parametrize("way", ["after", "before"])
async def test_an_unknown_id_in_the_result_set_is_not_found(
    romeo: Client, juliet: Client, way: str, dialect: str
) -> None:
    await said(romeo, juliet, "x")
    reply = await refused(romeo, Ask(rsm={"max": 5, way: UNKNOWN}, dialect=dialect))
    assert (reply.condition, reply.error_type) == ("item-not-found", "cancel")


async def test_an_id_of_another_archive_is_not_found(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "x")
    (own,), (foreign,) = (await archive(romeo)).ids, (await archive(juliet)).ids
    assert own != foreign
    reply = await refused(romeo, Ask({"ids": [own, foreign]}))
    assert reply.condition == "item-not-found"


BAD = {
    "start": ({"start": "yesterday"}, "bad-request"),
    "start without a zone": ({"start": "2010-06-07T00:00:00"}, "bad-request"),
    "end": ({"end": "2010-02-30T00:00:00Z"}, "bad-request"),
    "with": ({"with": "@@"}, "bad-request"),
    "with two": ({"with": ["a.example", "b.example"]}, "bad-request"),
    "include-groupchat": ({"include-groupchat": "perhaps"}, "bad-request"),
    "FORM_TYPE": ({"FORM_TYPE": "urn:xmpp:mam:1"}, "bad-request"),
    "unknown": ({"{urn:example}x": "y"}, "feature-not-implemented"),
    "unknown without a value": ({"{urn:example}x": []}, "feature-not-implemented"),
}


@pytest.mark.parametrize(("fields", "condition"), BAD.values(), ids=BAD.keys())
async def test_a_form_that_cannot_be_is_refused(
    romeo: Client, fields: dict[str, object], condition: str
) -> None:
    reply = await refused(romeo, Ask(fields))
    assert reply.condition == condition
    error = reply.at("error")
    assert error.has("text", ns.STANZAS)


# Pages.


@pytest.fixture
async def nine(romeo: Client, juliet: Client) -> list[Found]:
    """Romeo's archive of nine messages."""
    return await numbered(romeo, juliet, 9)


async def test_pages_forward(romeo: Client, nine: list[Found]) -> None:
    first = await archive(romeo, Ask(rsm={"max": 4}))
    assert first.bodies == ["0", "1", "2", "3"]
    assert (first.count, first.is_complete) == (9, False)
    second = await archive(romeo, Ask(rsm={"max": 4, "after": first.rsm("last") or ""}))
    assert (second.bodies, second.is_complete) == (["4", "5", "6", "7"], False)
    third = await archive(romeo, Ask(rsm={"max": 4, "after": second.rsm("last") or ""}))
    assert (third.bodies, third.is_complete) == (["8"], True)
    fourth = await archive(romeo, Ask(rsm={"max": 4, "after": third.rsm("last") or ""}))
    assert (fourth.bodies, fourth.is_complete) == ([], True)


async def test_pages_backward_are_in_order(romeo: Client, nine: list[Found]) -> None:
    # #query-last
    last = await archive(romeo, Ask(rsm={"max": 4, "before": ""}))
    assert (last.bodies, last.count, last.is_complete) == (["5", "6", "7", "8"], 9, False)
    middle = await archive(romeo, Ask(rsm={"max": 4, "before": last.rsm("first") or ""}))
    assert (middle.bodies, middle.is_complete) == (["1", "2", "3", "4"], False)
    first = await archive(romeo, Ask(rsm={"max": 4, "before": middle.rsm("first") or ""}))
    assert (first.bodies, first.is_complete) == (["0"], True)


async def test_a_flipped_page_has_the_same_messages_the_newest_first(
    romeo: Client, nine: list[Found]
) -> None:
    # #flipped
    for part in ({"max": 4}, {"max": 4, "before": ""}, {"max": 3, "after": nine[2].id}):
        plain = await archive(romeo, Ask(rsm=dict(part)))
        flipped = await archive(romeo, Ask(rsm=dict(part), is_flipped=True))
        assert flipped.bodies == plain.bodies[::-1]
        for name in ("first", "last", "count"):
            assert flipped.rsm(name) == plain.rsm(name)
        assert flipped.is_complete == plain.is_complete


async def test_a_maximum_of_zero_asks_for_the_count(romeo: Client, nine: list[Found]) -> None:
    page = await archive(romeo, Ask(rsm={"max": 0}))
    assert (page.bodies, page.count, page.rsm("first")) == ([], 9, None)
    part = await archive(romeo, Ask({"after-id": nine[5].id}, {"max": 0}))
    assert part.count == 3


@pytest.mark.settings(archive={"page_max": 5})
async def test_a_page_is_never_longer_than_the_server_allows(
    romeo: Client, nine: list[Found]
) -> None:
    assert len(nine) == 5
    for most in (6, 1_000_000, int("9" * 40)):
        page = await archive(romeo, Ask(rsm={"max": most}))
        assert (len(page.results), page.is_complete) == (5, False)
    assert len(await whole(romeo, size=1_000)) == 9


@pytest.mark.parametrize(
    ("part", "condition"),
    [
        ({"max": "-1"}, "bad-request"),
        ({"max": "many"}, "bad-request"),
        ({"max": 5, "before": "a", "after": "b"}, "bad-request"),
        ({"max": 5, "index": 3}, "feature-not-implemented"),
    ],
)
async def test_a_result_set_that_cannot_be_is_refused(
    romeo: Client, part: dict[str, object], condition: str
) -> None:
    assert (await refused(romeo, Ask(rsm=part))).condition == condition


async def test_an_empty_archive_answers_with_an_empty_complete_page(romeo: Client) -> None:
    page = await archive(romeo)
    assert (page.results, page.is_complete) == ([], True)
    assert (page.rsm("first"), page.rsm("last")) == (None, None)


async def test_pages_have_no_seams_while_messages_come(romeo: Client, juliet: Client) -> None:
    async def talk() -> None:
        for number in range(200):
            romeo.send(chat(juliet.jid, str(number)))
            if number % 10 == 9:
                await romeo.sync()

    talking = asyncio.create_task(talk())
    found: list[Found] = []
    part: dict[str, object] = {"max": 7}
    while len(found) < 200:
        page = await archive(juliet, Ask(rsm=part))
        found += page.results
        if page.rsm("last"):
            part = {"max": 7, "after": page.rsm("last") or ""}
        if page.is_complete:
            await asyncio.sleep(0.01)
    await talking
    assert [one.body for one in found] == [str(number) for number in range(200)]
    live = [place(e, juliet.bare) for e in juliet.inbox if e.body is not None]
    assert live == [one.id for one in found]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_way_to_page_gives_the_same_archive(
    clients: Clients, romeo: Client, seed: int
) -> None:
    # requirements 8.2: random traffic, pages of 7
    chance = random.Random(seed)
    peers = [await clients.online() for _ in range(3)]
    truth: list[tuple[str, str]] = []
    for number in range(chance.randint(60, 100)):
        peer = chance.choice(peers)
        sender, receiver = (romeo, peer) if chance.random() < 0.5 else (peer, romeo)
        await said(sender, receiver, str(number))
        truth.append((peer.bare, str(number)))
        if chance.random() < 0.2:
            await asyncio.sleep(0.002)
    everything = await whole(romeo, size=1_000)
    assert [one.body for one in everything] == [text for _, text in truth]
    for only in (None, peers[0].bare):
        fields: dict[str, object] = {} if only is None else {"with": only}
        wanted = [text for peer, text in truth if only in (None, peer)]
        assert [one.body for one in await whole(romeo, size=7, **fields)] == wanted
        assert await backward(romeo, fields, is_flipped=False) == wanted
        assert await backward(romeo, fields, is_flipped=True) == wanted
        assert await by_id(romeo, fields) == wanted
        assert await by_time(romeo, fields) == wanted


async def backward(client: Client, fields: dict[str, object], *, is_flipped: bool) -> list[str]:
    """The archive from its end, by pages of 7."""
    texts: list[str] = []
    end = ""
    while True:
        page = await archive(client, Ask(fields, {"max": 7, "before": end}, is_flipped=is_flipped))
        bodies = [body or "" for body in page.bodies]
        texts = [*(bodies[::-1] if is_flipped else bodies), *texts]
        if page.is_complete:
            return texts
        end = page.rsm("first") or ""


async def by_id(client: Client, fields: dict[str, object]) -> list[str]:
    """The archive by pages behind the last id known."""
    texts: list[str] = []
    more: dict[str, object] = {}
    while True:
        page = await archive(client, Ask({**fields, **more}, {"max": 7}))
        texts += [body or "" for body in page.bodies]
        if page.is_complete:
            return texts
        more = {"after-id": page.ids[-1]}


async def by_time(client: Client, fields: dict[str, object]) -> list[str]:
    """The archive by pages from the last time known, what is known already left out."""
    seen: dict[str, str] = {}
    more: dict[str, object] = {}
    while True:
        page = await archive(client, Ask({**fields, **more}, {"max": 60}))
        seen.update({one.id: one.body or "" for one in page.results})
        if page.is_complete:
            return list(seen.values())
        more = {"start": page.results[-1].stamp}
