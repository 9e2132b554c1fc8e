# SPDX-License-Identifier: Apache-2.0
"""What the two inbox protocols ask of the core, and how they answer."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from antiphon._core import Element
from antiphon.config.stored import Archive
from antiphon.storage.model import InboxQuery
from antiphon.xep.inbox_esl import Options, read_query
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused
from tests.unit.xep.fake_archive import FakeArchive, ms

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BO = "bo@capulet.example"
BOXES = ("inbox", "archive", "bin", "other")


def stage(**options: object) -> tuple[Harness, FakeArchive]:
    kinds = {"inbox_esl": Options(**options)} if options else {}  # type: ignore[arg-type]
    h = Harness(make_config(options=kinds))  # type: ignore[arg-type]
    ctx = h.assembly.contexts["capulet.example"]
    h.assembly.contexts["capulet.example"] = msgspec.structs.replace(ctx, clock=lambda: NOW)
    kept = FakeArchive().put_into(h.core)
    last = E("message", ns.CLIENT, E("body", ns.CLIENT, "hi"))
    kept.entries[BO] = ["id1", ms("2025-12-31T10:00:00"), 3, "inbox", 0, last]
    return h, kept


def form(*fields: tuple[str, str], kind: str = "submit") -> Element:
    rows = (E("field", ns.DATA, E("value", ns.DATA, value), var=var) for var, value in fields)
    return E("x", ns.DATA, *rows, type=kind)


def asked(*fields: tuple[str, str]) -> InboxQuery:
    return read_query(E("inbox", ns.INBOX, form(*fields)), BOXES)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], InboxQuery()),
        ([("FORM_TYPE", ns.INBOX)], InboxQuery()),
        ([("order", "asc")], InboxQuery(is_ascending=True)),
        ([("order", "desc")], InboxQuery()),
        ([("hidden_read", "true")], InboxQuery(is_unread_only=True)),
        ([("box", "archive")], InboxQuery(box="archive")),
        ([("box", "other")], InboxQuery(box="other")),
        ([("box", "all")], InboxQuery(box="all")),
        ([("box", "")], InboxQuery()),
        ([("archive", "true")], InboxQuery(box="archive")),
        ([("archive", "false")], InboxQuery(box="inbox")),
        ([("archive", "true"), ("box", "bin")], InboxQuery(box="bin")),
        ([("start", "2026-01-01T00:00:00Z")], InboxQuery(start=NOW)),
        ([("end", "2026-01-01T01:00:00+01:00")], InboxQuery(end=NOW)),
    ],
)
def test_fields_of_a_query(fields: list[tuple[str, str]], expected: InboxQuery) -> None:
    assert asked(*fields) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", "up"),
        ("hidden_read", "maybe"),
        ("box", "nope"),
        ("archive", "x"),
        ("start", "soon"),
        ("end", "2026-13-01T00:00:00Z"),
        ("unknown", "x"),
    ],
)
def test_a_bad_field_is_named_with_its_value(field: str, value: str) -> None:
    with pytest.raises(StanzaError) as caught:
        asked((field, value))
    assert (caught.value.condition, caught.value.type) == ("bad-request", "modify")
    assert field in (caught.value.text or "")
    assert value in (caught.value.text or "")


async def test_a_list_ends_with_the_counts_of_all() -> None:
    h, kept = stage()
    kept.inbox_result = ("id9", "id2", 41, 7, 3, False)
    answer = await h.iq("set", E("inbox", ns.INBOX, queryid="q9"))
    assert answer == E(
        "fin",
        ns.INBOX,
        E(
            "set",
            ns.RSM,
            E("first", ns.RSM, "id9"),
            E("last", ns.RSM, "id2"),
            E("count", ns.RSM, "41"),
        ),
        E("count", ns.INBOX, "41"),
        E("unread-messages", ns.INBOX, "7"),
        E("active-conversations", ns.INBOX, "3"),
    )
    owner, session, query_id, which, is_ascending, part, look = kept.inbox_pages[0]
    assert (str(owner), session, query_id, look) == (kept.owner, (0, 7), "q9", "esl")
    assert which == (None, None, False, None)
    assert (is_ascending, part) == (False, (None, None, False, 1_000))


async def test_without_a_queryid_the_requests_own_id_is_used() -> None:
    h, kept = stage()
    await h.iq("set", E("inbox", ns.INBOX))
    await h.iq("get", E("inbox", ns.INBOX_1))
    assert [page[2] for page in kept.inbox_pages] == ["i", "i"]


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        ({"max": "7"}, (None, None, False, 7)),
        ({"max": "99999999999999"}, (None, None, False, 1_000)),
        ({"max": "0"}, (None, None, False, 0)),
        ({"max": "7", "after": "p"}, ("p", None, False, 7)),
        ({"max": "7", "before": "p"}, (None, "p", True, 7)),
        ({"max": "7", "before": ""}, (None, None, True, 7)),
    ],
)
@pytest.mark.parametrize("protocol", ["esl", "0430"])
async def test_pages_go_both_ways(
    texts: dict[str, str], part: tuple[object, ...], protocol: str
) -> None:
    h, kept = stage()
    rsm = E("set", ns.RSM, *(E(name, ns.RSM, text) for name, text in texts.items()))
    if protocol == "esl":
        await h.iq("set", E("inbox", ns.INBOX, rsm))
    else:
        await h.iq("get", E("inbox", ns.INBOX_1, rsm))
    assert kept.inbox_pages[0][5] == part


@pytest.mark.parametrize("texts", [{"index": "3"}, {"max": "x"}, {"after": "a", "before": "b"}])
async def test_a_result_set_that_cannot_be_is_refused(texts: dict[str, str]) -> None:
    h, _ = stage()
    rsm = E("set", ns.RSM, *(E(name, ns.RSM, text) for name, text in texts.items()))
    assert (await refused(h.iq("set", E("inbox", ns.INBOX, rsm)))).condition == "bad-request"


async def test_the_form_offers_the_operators_boxes() -> None:
    h, _ = stage(boxes=("work",))
    answer = await h.iq("get", E("query", ns.INBOX))
    assert answer is not None
    found = answer.find(ns.DATA, "x")
    assert found is not None
    fields = {one.get("var"): one for one in found.children}
    assert set(fields) == {
        "FORM_TYPE",
        "start",
        "end",
        "order",
        "hidden_read",
        "box",
        "archive",
    }
    options = [one.get("label") for one in fields["box"].children]
    assert options == ["all", "inbox", "archive", "bin", "work"]


def change(*children: Element, jid: str | None = BO) -> Element:
    return E("query", ns.INBOX_CONVERSATION, *children, jid=jid)


def prop(name: str, value: str) -> Element:
    return E(name, ns.INBOX_CONVERSATION, value)


async def test_properties_of_a_conversation() -> None:
    h, kept = stage()
    plain = [("box", "inbox"), ("archive", "false"), ("mute", "0"), ("read", "false")]
    answer = await h.iq("get", change())
    assert answer == change(*(prop(*one) for one in plain), jid=None)
    until = ms("2026-01-02T00:00:00")
    kept.entries[BO][2:5] = [0, "archive", until]
    answer = await h.iq("get", change())
    values = ["archive", "true", "2026-01-02T00:00:00.000Z", "true"]
    assert answer is not None
    assert [child.text for child in answer.children] == values
    kept.entries[BO][4] = ms("2025-12-31T00:00:00")
    answer = await h.iq("get", change())
    assert answer is not None
    assert answer.find(ns.INBOX_CONVERSATION, "mute") == prop("mute", "0")


async def test_a_conversation_comes_with_its_last_message_when_asked_for() -> None:
    h, _ = stage()
    asked_for = E("query", ns.INBOX_CONVERSATION, jid=BO, complete="true")
    answer = await h.iq("get", asked_for)
    assert answer is not None
    forwarded = answer.find(ns.FORWARD, "forwarded")
    assert forwarded is not None
    assert forwarded.find(ns.DELAY, "delay") == E(
        "delay", ns.DELAY, stamp="2025-12-31T10:00:00.000Z"
    )
    assert forwarded.find(ns.CLIENT, "message") is not None


async def test_without_an_address_the_properties_are_described() -> None:
    h, _ = stage()
    answer = await h.iq("get", change(jid=None))
    assert answer is not None
    found = answer.find(ns.DATA, "x")
    assert found is not None
    assert [one.get("var") for one in found.children] == [
        "FORM_TYPE",
        "archive",
        "read",
        "mute",
        "box",
    ]


@pytest.mark.parametrize(
    ("children", "entry"),
    [
        ([("box", "archive")], (3, "archive", 0)),
        ([("archive", "true")], (3, "archive", 0)),
        ([("archive", "false")], (3, "inbox", 0)),
        ([("archive", "true"), ("box", "bin")], (3, "bin", 0)),
        ([("read", "true")], (0, "inbox", 0)),
        ([("read", "false")], (3, "inbox", 0)),
        ([("mute", "86400")], (3, "inbox", int((NOW + timedelta(days=1)).timestamp() * 1000))),
        ([("mute", "0"), ("read", "1")], (0, "inbox", 0)),
    ],
)
async def test_changes_of_a_conversation(
    children: list[tuple[str, str]], entry: tuple[int, str, int]
) -> None:
    h, kept = stage()
    assert await h.iq("set", change(*(prop(*one) for one in children))) is None
    assert tuple(kept.entries[BO][2:5]) == entry


@pytest.mark.parametrize(
    "children",
    [
        [],
        [("box", "nope")],
        [("archive", "maybe")],
        [("mute", "-1")],
        [("mute", "soon")],
        [("mute", "9999999999")],
        [("read", "x")],
        [("read", "true"), ("read", "true")],
        [("read", "true"), ("box", "nope")],
        [("colour", "red")],
    ],
)
async def test_one_bad_property_changes_nothing(children: list[tuple[str, str]]) -> None:
    h, kept = stage()
    before = list(kept.entries[BO])
    error = await refused(h.iq("set", change(*(prop(*one) for one in children))))
    assert (error.condition, error.type) == ("bad-request", "modify")
    assert kept.entries[BO] == before


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (change(prop("read", "true"), jid="no@capulet.example"), "item-not-found"),
        (change(prop("read", "true"), jid=None), "bad-request"),
        (change(prop("read", "true"), jid="@"), "bad-request"),
        (E("reset", ns.INBOX_CONVERSATION, jid="no@capulet.example"), "item-not-found"),
        (E("reset", ns.INBOX_CONVERSATION), "bad-request"),
    ],
)
async def test_a_conversation_must_be_there(payload: Element, condition: str) -> None:
    h, _ = stage()
    assert (await refused(h.iq("set", payload))).condition == condition


async def test_an_unknown_conversation_has_no_properties() -> None:
    h, _ = stage()
    error = await refused(h.iq("get", change(jid="no@capulet.example")))
    assert error.condition == "item-not-found"


async def test_reset_and_empty_bin() -> None:
    h, kept = stage()
    assert await h.iq("set", E("reset", ns.INBOX_CONVERSATION, jid=f"{BO}/desk")) is None
    assert kept.entries[BO][2] == 0
    answer = await h.iq("set", E("empty-bin", ns.INBOX))
    assert answer == E("empty-bin", ns.INBOX, E("num", ns.INBOX, "2"))


async def test_the_inbox_of_another_is_forbidden() -> None:
    h, kept = stage()
    for kind, payload in (
        ("set", E("inbox", ns.INBOX)),
        ("get", E("inbox", ns.INBOX_1)),
        ("get", change()),
        ("set", change(prop("read", "true"))),
        ("set", E("empty-bin", ns.INBOX)),
    ):
        error = await refused(h.iq(kind, payload, to="romeo@capulet.example"))  # type: ignore[arg-type]
        assert error.condition == "forbidden"
    assert kept.inbox_pages == []


@pytest.mark.parametrize(
    ("attrs", "look", "is_unread_only"),
    [
        ({}, "xep0430-messages", False),
        ({"messages": "true"}, "xep0430-messages", False),
        ({"messages": "0", "unread-only": "1"}, "xep0430", True),
    ],
)
async def test_an_inbox_of_xep_0430(attrs: dict[str, str], look: str, is_unread_only: bool) -> None:
    h, kept = stage()
    kept.inbox_result = ("a", "b", 3, 6, 2, True)
    answer = await h.iq("get", Element("inbox", ns.INBOX_1, attrs, []))
    assert answer is not None
    assert answer.attrs == {"total": "3", "unread": "2", "all-unread": "6"}
    page = kept.inbox_pages[0]
    assert page[6] == look
    assert page[3] == (None, None, is_unread_only, None)
    wrong = Element("inbox", ns.INBOX_1, {"messages": "some"}, [])
    assert (await refused(h.iq("get", wrong))).condition == "bad-request"


async def test_the_inbox_alone_can_be_turned_off() -> None:
    config = make_config()
    h = Harness(type(config)(domains=config.domains, archive=Archive(inbox=False)))
    FakeArchive().put_into(h.core)
    assert (await refused(h.iq("set", E("inbox", ns.INBOX)))).condition == "service-unavailable"
    features = h.assembly.contexts["capulet.example"].host.owner_features
    assert ns.MAM_2 in features
    assert not {ns.INBOX, ns.INBOX_1} & set(features)
    assert (h.assembly.core_modules["mam"], h.assembly.core_modules["inbox"]) == (True, False)


def test_names_of_boxes_are_checked() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"boxes": ["A b"]}, Options)
