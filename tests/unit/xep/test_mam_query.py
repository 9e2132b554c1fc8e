# SPDX-License-Identifier: Apache-2.0
"""Queries of archives as clients write them (XEP-0313 #filter, #query-paging)."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon._core import Element, Jid
from antiphon.storage.model import ArchiveQuery, PageQuery
from antiphon.xep._mam_query import (
    FULLTEXT_FIELD,
    Asked,
    asked_by_children,
    asked_by_form,
    form,
    not_before,
    page_of,
    result_set,
)
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.rsm import PageRequest
from antiphon.xmpp.stanza import E


def submitted(
    *fields: tuple[str, tuple[str, ...]], dialect: str = ns.MAM_2, kind: str = "submit"
) -> Element:
    rows = (
        E("field", ns.DATA, *(E("value", ns.DATA, v) for v in values), var=var)
        for var, values in fields
    )
    return E("x", ns.DATA, *rows, type=kind)


def query(*children: Element, dialect: str = ns.MAM_2, **attrs: str) -> Element:
    return E("query", dialect, *children, **attrs)


def rsm(**texts: object) -> Element:
    children = (E(name, ns.RSM, None if t is None else str(t)) for name, t in texts.items())
    return E("set", ns.RSM, *children)


def asked(*fields: tuple[str, tuple[str, ...]], search: bool = True) -> Asked:
    return asked_by_form(query(submitted(*fields)), page_max=250, has_search=search)


def condition(*fields: tuple[str, tuple[str, ...]], search: bool = True) -> tuple[str, str]:
    with pytest.raises(StanzaError) as caught:
        asked(*fields, search=search)
    return caught.value.condition, caught.value.text or ""


def test_a_query_without_a_form_is_for_everything() -> None:
    found = asked_by_form(query(queryid="q"), page_max=250, has_search=True)
    assert found.query == ArchiveQuery()
    assert found.page == PageQuery(max=250)
    assert (found.query_id, found.has_set, found.has_count, found.is_flipped) == (
        "q",
        False,
        True,
        False,
    )


def test_every_field_of_the_specification_is_read() -> None:
    found = asked(
        ("FORM_TYPE", (ns.MAM_2,)),
        ("with", ("Juliet@capulet.example",)),
        ("start", ("2010-06-07T00:00:00Z",)),
        ("end", ("2010-07-07T15:23:54.5+02:00",)),
        ("before-id", ("b",)),
        ("after-id", ("a",)),
        ("ids", ("1", "2", "1")),
        ("include-groupchat", ("false",)),
        (FULLTEXT_FIELD, ("pale moon",)),
    )
    assert found.query == ArchiveQuery(
        with_jid=Jid("juliet@capulet.example"),
        start=datetime(2010, 6, 7, tzinfo=UTC),
        end=datetime(2010, 7, 7, 13, 23, 54, 500_000, tzinfo=UTC),
        before_id="b",
        after_id="a",
        ids=("1", "2"),
        text="pale moon",
        has_groupchat=False,
    )


@pytest.mark.parametrize("name", [FULLTEXT_FIELD, "full-text-search", "withtext"])
def test_the_search_field_has_several_names(name: str) -> None:
    assert asked((name, ("moon",))).query.text == "moon"
    assert asked((name, ("",))).query.text is None
    assert asked((name, (" ",))).query.text is None
    assert condition((name, ("moon",)), search=False)[0] == "feature-not-implemented"


def test_one_search_may_be_given_under_two_names() -> None:
    assert asked(("withtext", ("a",)), ("full-text-search", ("a",))).query.text == "a"
    assert condition(("withtext", ("a",)), ("full-text-search", ("b",)))[0] == "bad-request"


def test_the_fields_of_mongooseim_are_read() -> None:
    found = asked(("from-id", ("a",)), ("to-id", ("b",)), ("simple", ("true",)))
    assert (found.from_id, found.to_id, found.has_count) == ("a", "b", False)
    assert condition(("from-id", ("a",)), ("after-id", ("b",)))[0] == "bad-request"
    assert condition(("to-id", ("a",)), ("before-id", ("b",)))[0] == "bad-request"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("with", "@@", "with"),
        ("start", "yesterday", "start"),
        ("start", "2010-06-07", "start"),
        ("end", "2010-02-30T00:00:00Z", "end"),
        ("end", "2010-06-07T00:00:00", "end"),
        ("include-groupchat", "perhaps", "include-groupchat"),
        ("simple", "2", "simple"),
    ],
)
def test_a_bad_value_is_named(field: str, value: str, text: str) -> None:
    found, said = condition((field, (value,)))
    assert found == "bad-request"
    assert text in said


def test_two_values_where_one_is_allowed_are_refused() -> None:
    assert condition(("with", ("a@b.example", "c@d.example")))[0] == "bad-request"


def test_an_unknown_field_is_not_implemented() -> None:
    found, said = condition(("{urn:x}y", ("z",)))
    assert found == "feature-not-implemented"
    assert "{urn:x}y" in said


def test_a_form_of_another_kind_is_refused() -> None:
    for form_type, kind in (("urn:xmpp:mam:1", "submit"), (ns.MAM_2, "cancel")):
        payload = query(submitted(("FORM_TYPE", (form_type,)), kind=kind))
        with pytest.raises(StanzaError) as caught:
            asked_by_form(payload, page_max=250, has_search=True)
        assert caught.value.condition == "bad-request"


def test_too_many_ids_are_refused() -> None:
    assert condition(("ids", tuple(str(n) for n in range(1_001))))[0] in (
        "bad-request",
        "not-acceptable",
    )


def test_a_node_is_not_there() -> None:
    with pytest.raises(StanzaError) as caught:
        asked_by_form(query(node="x"), page_max=250, has_search=True)
    assert caught.value.condition == "item-not-found"


@pytest.mark.parametrize(
    ("asked_for", "expected"),
    [
        ({}, PageQuery(max=250)),
        ({"max": 10}, PageQuery(max=10)),
        ({"max": 251}, PageQuery(max=250)),
        ({"max": "9" * 40}, PageQuery(max=250)),
        ({"max": 0}, PageQuery(max=0)),
        ({"max": 5, "after": "a"}, PageQuery(max=5, after="a")),
        ({"max": 5, "after": None}, PageQuery(max=5)),
        ({"max": 5, "before": None}, PageQuery(max=5, is_from_end=True)),
        ({"max": 5, "before": "b"}, PageQuery(max=5, before="b", is_from_end=True)),
    ],
)
def test_pages_are_never_longer_than_allowed(
    asked_for: dict[str, object], expected: PageQuery
) -> None:
    assert asked_by_form(query(rsm(**asked_for)), page_max=250, has_search=True).page == expected


@pytest.mark.parametrize("wrong", [{"max": "-1"}, {"max": "x"}, {"after": "a", "before": "b"}])
def test_a_result_set_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StanzaError) as caught:
        asked_by_form(query(rsm(**wrong)), page_max=250, has_search=True)
    assert caught.value.condition == "bad-request"


def test_pages_are_not_found_by_index() -> None:
    with pytest.raises(StanzaError) as caught:
        page_of(PageRequest(index=3), 250)
    assert caught.value.condition == "feature-not-implemented"


@pytest.mark.parametrize(
    ("asked_for", "search", "is_counted"),
    [
        ({}, False, True),
        ({"before": None}, False, True),
        ({"after": "a"}, False, False),
        ({"before": "a"}, False, False),
        ({}, True, False),
        ({"max": 0}, True, True),
        ({"max": 0, "after": "a"}, False, True),
    ],
)
def test_only_first_pages_and_bare_counts_are_counted(
    asked_for: dict[str, object], search: bool, is_counted: bool
) -> None:
    fields = [(FULLTEXT_FIELD, ("moon",))] if search else []
    payload = query(submitted(*fields), rsm(**asked_for))
    assert asked_by_form(payload, page_max=250, has_search=True).has_count == is_counted


def test_a_flipped_page_is_asked_for_in_the_dialects_own_namespace() -> None:
    for namespace, is_flipped in ((ns.MAM_2, True), (ns.MAM_1, False)):
        payload = query(E("flip-page", namespace))
        assert asked_by_form(payload, page_max=250, has_search=True).is_flipped == is_flipped


def test_the_oldest_dialect_has_plain_children() -> None:
    payload = query(
        E("with", ns.MAM_TMP, "juliet@capulet.example"),
        E("start", ns.MAM_TMP, "2010-08-07T00:00:00Z"),
        rsm(max=10),
        dialect=ns.MAM_TMP,
    )
    found = asked_by_children(payload, page_max=250, has_search=True)
    assert found.query.with_jid == Jid("juliet@capulet.example")
    assert found.query.start == datetime(2010, 8, 7, tzinfo=UTC)
    assert (found.page.max, found.has_set) == (10, True)


@pytest.mark.parametrize(
    ("children", "condition_"),
    [
        (("with", "with"), "bad-request"),
        (("ids",), "feature-not-implemented"),
        (("start",), "bad-request"),
    ],
)
def test_the_oldest_dialect_refuses(children: tuple[str, ...], condition_: str) -> None:
    payload = query(*(E(c, ns.MAM_TMP, "a.example") for c in children), dialect=ns.MAM_TMP)
    with pytest.raises(StanzaError) as caught:
        asked_by_children(payload, page_max=250, has_search=True)
    assert caught.value.condition == condition_


def test_the_form_names_every_field_and_requires_none() -> None:
    element = form(ns.MAM_2, has_search=True)
    fields = {one.get("var"): one for one in element.children}
    assert fields["FORM_TYPE"].children[0].text == ns.MAM_2
    kinds = {var: one.get("type") for var, one in fields.items()}
    assert kinds == {
        "FORM_TYPE": "hidden",
        "with": "jid-single",
        "start": "text-single",
        "end": "text-single",
        "before-id": "text-single",
        "after-id": "text-single",
        "ids": "list-multi",
        "include-groupchat": "boolean",
        FULLTEXT_FIELD: "text-single",
    }
    validate = fields["ids"].find(ns.DATA_VALIDATE, "validate")
    assert validate is not None
    assert validate.find(ns.DATA_VALIDATE, "open") is not None
    without = form(ns.MAM_1, has_search=False)
    assert FULLTEXT_FIELD not in {one.get("var") for one in without.children}


def test_an_empty_page_has_an_empty_set() -> None:
    assert result_set(None, None, None) == E("set", ns.RSM)


def test_a_start_between_milliseconds_is_the_next_one() -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert not_before(at).microsecond == 124_000
    assert not_before(at.replace(microsecond=123_000)).microsecond == 123_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["with", "start", "end", "ids", FULLTEXT_FIELD, "simple", "x"]),
            st.lists(
                st.text(
                    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="￾￿")
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=5,
        unique_by=lambda pair: pair[0],
    )
)
def test_no_form_whatever_makes_more_than_a_stanza_error(
    fields: list[tuple[str, tuple[str, ...]]],
) -> None:
    with suppress(StanzaError):
        asked(*fields)
