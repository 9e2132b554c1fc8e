# SPDX-License-Identifier: Apache-2.0
"""What XEP-0313, 0441 and 0136 ask of the core, and how they answer."""

import asyncio

import pytest

from antiphon._core import Element, Jid
from antiphon.config.stored import Archive
from antiphon.xep._mam_query import FULLTEXT_FIELD
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused
from tests.unit.xep.fake_archive import FakeArchive, ms

JULIET = "juliet@capulet.example"
BALCONY = "juliet@capulet.example/balcony"
ROMEO = "romeo@capulet.example"
FORMS = (ns.MAM_2, ns.MAM_1, ns.MAM_0)
ALL = (*FORMS, ns.MAM_TMP)


def stage() -> tuple[Harness, FakeArchive]:
    h = Harness()
    kept = FakeArchive().put_into(h.core)
    for day in (1, 2):
        for hour in (9, 10):
            kept.add(f"2026-01-0{day}T{hour:02}:00:00.250", ROMEO, f"{day} {hour}")
            kept.add(f"2026-01-0{day}T{hour:02}:00:31", "nurse@capulet.example", "x", is_out=True)
    return h, kept


def query(dialect: str = ns.MAM_2, *children: Element, **attrs: str) -> Element:
    return E("query", dialect, *children, **attrs)


def rsm(**texts: object) -> Element:
    return E(
        "set", ns.RSM, *(E(k, ns.RSM, None if v is None else str(v)) for k, v in texts.items())
    )


def filtered(**values: str) -> Element:
    fields = (
        E("field", ns.DATA, E("value", ns.DATA, value), var=var.replace("_", "-"))
        for var, value in values.items()
    )
    return E("x", ns.DATA, *fields, type="submit")


@pytest.mark.parametrize("dialect", (ns.MAM_2, ns.MAM_1))
async def test_a_query_gives_a_page_and_its_end(dialect: str) -> None:
    h, kept = stage()
    fin = await h.iq("set", query(dialect, rsm(max=3), queryid="f27"))
    assert fin == E(
        "fin",
        dialect,
        E(
            "set",
            ns.RSM,
            E("first", ns.RSM, "id000"),
            E("last", ns.RSM, "id002"),
            E("count", ns.RSM, "8"),
        ),
    )
    (page,) = kept.pages
    assert page[0] == Jid(JULIET)
    assert page[1] == (0, 7)
    assert page[3:] == ((None, None, False, 3), (dialect, "f27", False, True))


async def test_the_last_page_is_complete() -> None:
    h, _ = stage()
    fin = await h.iq("set", query(ns.MAM_2, rsm(max=3, after="id005")))
    assert fin is not None
    assert (fin.get("complete"), fin.get("stable"), fin.get("queryid")) == ("true", None, None)


async def test_results_of_a_search_that_may_change_are_not_stable() -> None:
    h, kept = stage()
    field = E("field", ns.DATA, E("value", ns.DATA, "moon"), var=FULLTEXT_FIELD)
    fin = await h.iq("set", query(ns.MAM_2, E("x", ns.DATA, field, type="submit")))
    assert fin is not None
    assert fin.get("stable") == "false"
    which = kept.pages[0][2]
    assert isinstance(which, tuple)
    assert which[6] == "moon"


async def test_a_count_alone_is_no_page() -> None:
    h, _ = stage()
    fin = await h.iq("set", query(ns.MAM_2, rsm(max=0)))
    assert fin == E("fin", ns.MAM_2, E("set", ns.RSM, E("count", ns.RSM, "8")))


async def test_an_empty_archive_has_a_complete_empty_page() -> None:
    h = Harness()
    FakeArchive().put_into(h.core)
    for asked in (query(), query(ns.MAM_2, rsm(max=0))):
        fin = await h.iq("set", asked)
        assert fin == E("fin", ns.MAM_2, E("set", ns.RSM, E("count", ns.RSM, "0")), complete="true")
    assert await h.iq("get", E("metadata", ns.MAM_2)) == E("metadata", ns.MAM_2)


async def test_bounds_that_include_their_message_become_its_neighbours() -> None:
    h, kept = stage()
    await h.iq("set", query(ns.MAM_2, filtered(from_id="id002", to_id="id005")))
    which = kept.pages[0][2]
    assert isinstance(which, tuple)
    assert which[3:5] == ("id001", "id006")
    await h.iq("set", query(ns.MAM_2, filtered(from_id="id000", to_id="id007")))
    which = kept.pages[1][2]
    assert isinstance(which, tuple)
    assert which[3:5] == (None, None)
    error = await refused(h.iq("set", query(ns.MAM_2, filtered(from_id="nope"))))
    assert error.condition == "item-not-found"


async def test_the_answer_of_mam_0_comes_before_its_results() -> None:
    h, kept = stage()
    ticket = h.put_iq("set", query(ns.MAM_0, rsm(max=2), queryid="q"))
    assert await h.answer(ticket) is None
    assert kept.pages == []
    while not h.core.sent:
        await asyncio.sleep(0)
    (ended,) = h.core.sent
    assert (str(ended.frm), str(ended.to), ended.kind) == (JULIET, BALCONY, "message")
    assert ended.payload is not None
    assert (ended.payload.name, ended.payload.ns) == ("fin", ns.MAM_0)
    assert (ended.payload.get("queryid"), ended.payload.get("complete")) == ("q", None)
    assert len(kept.pages) == 1


async def test_what_is_wrong_with_a_query_of_mam_0_is_its_answer() -> None:
    h, kept = stage()
    error = await refused(h.iq("set", query(ns.MAM_0, rsm(after="nope"))))
    assert error.condition == "item-not-found"
    assert kept.pages == []


async def test_mam_0_ends_even_if_its_results_do_not_come() -> None:
    h, kept = stage()
    kept.error = StanzaError("resource-constraint")
    ticket = h.put_iq("set", query(ns.MAM_0))
    assert await h.answer(ticket) is None
    while not h.core.sent:
        await asyncio.sleep(0)
    payload = h.core.sent[0].payload
    assert payload is not None
    assert (payload.get("complete"), payload.get("stable")) == (None, "false")


async def test_mam_tmp_is_asked_by_get_and_ended_by_its_query() -> None:
    h, _ = stage()
    answer = await h.iq("get", query(ns.MAM_TMP, E("with", ns.MAM_TMP, ROMEO), rsm(max=10)))
    assert answer == E(
        "query",
        ns.MAM_TMP,
        E(
            "set",
            ns.RSM,
            E("first", ns.RSM, "id000"),
            E("last", ns.RSM, "id006"),
            E("count", ns.RSM, "4"),
        ),
    )


async def test_mam_tmp_without_pages_refuses_what_is_too_long() -> None:
    config = make_config()
    h = Harness(type(config)(domains=config.domains, archive=Archive(page_max=5)))
    kept = FakeArchive().put_into(h.core)
    for _ in range(5):
        kept.add("2026-01-01T09:00:00", ROMEO, "x")
    assert await h.iq("get", query(ns.MAM_TMP)) is not None
    kept.add("2026-01-01T09:00:00", ROMEO, "x")
    error = await refused(h.iq("get", query(ns.MAM_TMP)))
    assert (error.condition, error.text) == ("policy-violation", "Too many results")
    assert await h.iq("get", query(ns.MAM_TMP, rsm(max=100))) is not None


async def test_the_metadata_are_the_ends_of_the_archive() -> None:
    h, _ = stage()
    assert await h.iq("get", E("metadata", ns.MAM_2)) == E(
        "metadata",
        ns.MAM_2,
        E("start", ns.MAM_2, id="id000", timestamp="2026-01-01T09:00:00.250Z"),
        E("end", ns.MAM_2, id="id007", timestamp="2026-01-02T10:00:31.000Z"),
    )


@pytest.mark.parametrize("to", [ROMEO, "nobody@capulet.example"])
@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("set", query()),
        ("get", query()),
        ("set", query(ns.MAM_1)),
        ("set", query(ns.MAM_0)),
        ("get", query(ns.MAM_TMP)),
        ("get", E("metadata", ns.MAM_2)),
        ("get", E("prefs", ns.MAM_2)),
        ("set", E("prefs", ns.MAM_2, default="never")),
        ("get", E("list", ns.ARCHIVE)),
        ("set", E("remove", ns.ARCHIVE)),
    ],
)
async def test_the_archive_of_another_is_forbidden(kind: str, payload: Element, to: str) -> None:
    h, kept = stage()
    error = await refused(h.iq(kind, payload, to=to))  # type: ignore[arg-type]
    assert error.condition == "forbidden"
    assert (kept.pages, kept.purged, kept.prefs[0]) == ([], [], "always")


async def test_without_an_archive_there_is_nothing_to_ask() -> None:
    config = make_config()
    off = type(config)(domains=config.domains, archive=Archive(enabled=False))
    h = Harness(off)
    FakeArchive().put_into(h.core)
    for payload in (query(), query(ns.MAM_1), query(ns.MAM_0)):
        assert (await refused(h.iq("set", payload))).condition == "service-unavailable"
    features = h.assembly.contexts["capulet.example"].host.owner_features
    assert not {*ALL, ns.FULLTEXT, ns.INBOX, ns.INBOX_1} & set(features)
    assert not h.assembly.core_modules["mam"]
    assert not h.assembly.core_modules["inbox"]


async def test_search_alone_can_be_turned_off() -> None:
    h = Harness(make_config(disable=["fulltext"]))
    FakeArchive().put_into(h.core)
    host = h.assembly.contexts["capulet.example"].host
    assert ns.MAM_2 in host.owner_features
    assert ns.FULLTEXT not in host.owner_features
    field = E("field", ns.DATA, E("value", ns.DATA, "moon"), var="withtext")
    error = await refused(h.iq("set", query(ns.MAM_2, E("x", ns.DATA, field, type="submit"))))
    assert error.condition == "feature-not-implemented"


@pytest.mark.parametrize("dialect", FORMS)
async def test_the_form_is_that_of_its_dialect(dialect: str) -> None:
    h, _ = stage()
    answer = await h.iq("get", query(dialect))
    assert answer is not None
    form = answer.find(ns.DATA, "x")
    assert form is not None
    assert form.children[0].children[0].text == dialect


# XEP-0441


@pytest.mark.parametrize("dialect", ALL)
async def test_preferences_are_given_back_as_applied(dialect: str) -> None:
    h, _ = stage()
    empty = E("prefs", dialect, E("always", dialect), E("never", dialect), default="always")
    assert await h.iq("get", E("prefs", dialect)) == empty
    never = E("never", dialect, E("jid", dialect, "B@x.example"), E("jid", dialect, "a@x.example"))
    answer = await h.iq("set", E("prefs", dialect, never, default="roster"))
    jids = (E("jid", dialect, jid) for jid in ("a@x.example", "b@x.example"))
    assert answer == E(
        "prefs", dialect, E("always", dialect), E("never", dialect, *jids), default="roster"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        E("prefs", ns.MAM_2),
        E("prefs", ns.MAM_2, default="sometimes"),
        E("prefs", ns.MAM_2, E("never", ns.MAM_2, E("jid", ns.MAM_2, "@")), default="never"),
        E("prefs", ns.MAM_2, E("never", ns.MAM_2, E("jid", ns.MAM_2)), default="never"),
        E("prefs", ns.MAM_2, E("always", ns.MAM_2, E("x", ns.MAM_2, "a.b")), default="never"),
    ],
)
async def test_preferences_that_cannot_be_are_refused(wrong: Element) -> None:
    h, kept = stage()
    assert (await refused(h.iq("set", wrong))).condition == "bad-request"
    assert kept.prefs == ("always", [], [])


# XEP-0136


def collection(answer: Element | None) -> list[tuple[str | None, str | None]]:
    assert answer is not None
    chats = (child for child in answer.children if child.name == "chat")
    return [(chat.get("with"), chat.get("start")) for chat in chats]


NURSE = "nurse@capulet.example"
COLLECTIONS = [
    (ROMEO, "2026-01-01T09:00:00.250Z"),
    (NURSE, "2026-01-01T09:00:31.000Z"),
    (ROMEO, "2026-01-02T09:00:00.250Z"),
    (NURSE, "2026-01-02T09:00:31.000Z"),
]


def listing(*children: Element, **attrs: str) -> Element:
    return Element("list", ns.ARCHIVE, attrs, list(children))


async def test_collections_are_conversations_by_day() -> None:
    h, _ = stage()
    assert collection(await h.iq("get", listing())) == COLLECTIONS
    only = listing(**{"with": ROMEO})
    assert collection(await h.iq("get", only)) == [COLLECTIONS[0], COLLECTIONS[2]]
    late = listing(start="2026-01-02T00:00:00Z")
    assert collection(await h.iq("get", late)) == COLLECTIONS[2:]
    host = listing(**{"with": "capulet.example"})
    assert collection(await h.iq("get", host)) == COLLECTIONS
    exact = listing(**{"with": "capulet.example", "exactmatch": "true"})
    assert await h.iq("get", exact) == E("list", ns.ARCHIVE)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("way", ["after", "before"])
async def test_collections_come_in_pages_both_ways(size: int, way: str) -> None:
    h, _ = stage()
    found: list[tuple[str | None, str | None]] = []
    end: str | None = None
    while True:
        request = {"max": size, way: end} if end or way == "before" else {"max": size}
        answer = await h.iq("get", listing(rsm(**request)))
        page = collection(answer)
        if not page:
            break
        found = [*found, *page] if way == "after" else [*page, *found]
        assert answer is not None
        result = answer.find(ns.RSM, "set")
        assert result is not None
        last = result.find(ns.RSM, "last" if way == "after" else "first")
        assert last is not None
        end = last.text
    assert found == COLLECTIONS


async def test_a_collection_has_the_bodies_and_their_times() -> None:
    h, _ = stage()
    asked = {"with": NURSE, "start": "2026-01-01T09:00:31Z"}
    answer = await h.iq("get", Element("retrieve", ns.ARCHIVE, asked, []))
    assert answer is not None
    assert (answer.get("with"), answer.get("start"), answer.get("version")) == (
        NURSE,
        "2026-01-01T09:00:31.000Z",
        "0",
    )
    assert list(answer.children[:2]) == [
        E("to", ns.ARCHIVE, E("body", ns.ARCHIVE, "x"), secs=0),
        E("to", ns.ARCHIVE, E("body", ns.ARCHIVE, "x"), secs=3600),
    ]
    later = Element("retrieve", ns.ARCHIVE, asked, [rsm(max=1, after="id001")])
    answer = await h.iq("get", later)
    assert answer is not None
    assert answer.children[0] == E(
        "to", ns.ARCHIVE, E("body", ns.ARCHIVE, "x"), utc="2026-01-01T10:00:31.000Z"
    )
    result = answer.find(ns.RSM, "set")
    assert result is not None
    assert result.find(ns.RSM, "count") == E("count", ns.RSM, "2")


async def test_an_unknown_collection_is_not_found() -> None:
    h, _ = stage()
    for with_, start in ((NURSE, "2026-01-03T09:00:31Z"), ("x@y.example", "2026-01-01T09:00:31Z")):
        asked = Element("retrieve", ns.ARCHIVE, {"with": with_, "start": start}, [])
        assert (await refused(h.iq("get", asked))).condition == "item-not-found"
    asked = Element("retrieve", ns.ARCHIVE, {"with": NURSE}, [])
    assert (await refused(h.iq("get", asked))).condition == "bad-request"


@pytest.mark.parametrize(
    ("attrs", "purged"),
    [
        ({}, (None, None)),
        ({"with": ROMEO}, (ROMEO, None)),
        (
            {"with": ROMEO, "start": "2026-01-01T09:00:00Z"},
            (ROMEO, ms("2026-01-02T00:00:00")),
        ),
        (
            {"start": "0000-01-01T00:00:00Z", "end": "2026-01-01T09:30:00Z"},
            (None, ms("2026-01-01T09:30:00.001")),
        ),
        ({"with": ROMEO, "start": "2026-01-02T09:00:00Z"}, "not-allowed"),
        ({"start": "2026-01-01T10:00:00Z"}, "not-allowed"),
        ({"with": "x@y.example"}, "item-not-found"),
        ({"end": "2025-01-01T00:00:00Z"}, "item-not-found"),
        ({"with": f"{ROMEO}/x"}, "feature-not-implemented"),
        ({"open": "true"}, "item-not-found"),
        ({"start": "soon"}, "bad-request"),
    ],
)
async def test_only_the_oldest_collections_can_be_removed(
    attrs: dict[str, str], purged: tuple[str | None, int | None] | str
) -> None:
    h, kept = stage()
    asked = Element("remove", ns.ARCHIVE, attrs, [])
    if isinstance(purged, str):
        assert (await refused(h.iq("set", asked))).condition == purged
        assert kept.purged == []
        return
    assert await h.iq("set", asked) is None
    assert kept.purged == [purged]


async def test_automatic_archiving_is_the_default_preference() -> None:
    h, kept = stage()
    kept.prefs = ("roster", [], [Jid("a@b.example")])
    assert await h.iq("set", E("auto", ns.ARCHIVE, save="true")) is None
    assert kept.prefs[0] == "roster"
    error = await refused(h.iq("set", E("auto", ns.ARCHIVE, save="false")))
    assert error.condition == "feature-not-implemented"
    assert await h.iq("set", E("auto", ns.ARCHIVE, save="false", scope="global")) is None
    assert kept.prefs == ("never", [], [Jid("a@b.example")])
    pref = await h.iq("get", E("pref", ns.ARCHIVE))
    assert pref is not None
    assert pref.children[:3] == [
        E("auto", ns.ARCHIVE, save="false", scope="global"),
        E("default", ns.ARCHIVE, otr="concede", save="false"),
        E("item", ns.ARCHIVE, jid="a@b.example", otr="concede", save="false"),
    ]
    assert [m.get("type") for m in pref.children[3:]] == ["auto", "local", "manual"]
    within = E("pref", ns.ARCHIVE, E("auto", ns.ARCHIVE, save="1", scope="global"))
    assert await h.iq("set", within) is None
    assert (await h.iq("get", E("prefs", ns.MAM_2))).get("default") == "always"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (E("auto", ns.ARCHIVE), "bad-request"),
        (E("auto", ns.ARCHIVE, save="maybe"), "bad-request"),
        (E("pref", ns.ARCHIVE), "feature-not-implemented"),
        (E("pref", ns.ARCHIVE, E("default", ns.ARCHIVE)), "feature-not-implemented"),
    ],
)
async def test_other_preferences_are_not_taken(payload: Element, condition: str) -> None:
    h, _ = stage()
    assert (await refused(h.iq("set", payload))).condition == condition
