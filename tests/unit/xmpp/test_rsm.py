# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.rsm import PageRequest, page
from antiphon.xmpp.stanza import E, Element

LETTERS = list("abcdefghij")


def request(*children: Element) -> PageRequest | None:
    return PageRequest.of(E("query", "x", E("set", ns.RSM, *children)))


def item(name: str, text: str = "") -> Element:
    return E(name, ns.RSM, text)


def cut(*children: Element, most: int = 100) -> tuple[str, dict[str, str]]:
    asked = request(*children)
    assert asked is not None
    chosen, result_set = page(LETTERS, str, asked, most)
    return "".join(chosen), {child.name: child.text for child in result_set.children}


def test_a_payload_without_a_set_asks_for_no_page() -> None:
    assert PageRequest.of(E("query", "x")) is None


@pytest.mark.parametrize(
    ("children", "expected"),
    [
        ([item("max", "3")], "abc"),
        ([item("max", "3"), item("after", "c")], "def"),
        ([item("max", "3"), item("before", "e")], "bcd"),
        ([item("max", "3"), item("before")], "hij"),
        ([item("max", "3"), item("before", "b")], "a"),
        ([item("max", "3"), item("index", "8")], "ij"),
        ([item("max", "3"), item("index", "10")], ""),
        ([item("max", "3"), item("after", "j")], ""),
        ([], "abcdefghij"),
    ],
)
def test_pages_are_in_the_order_of_the_list(children: list[Element], expected: str) -> None:
    assert cut(*children)[0] == expected


def test_a_page_of_zero_only_counts() -> None:
    # XEP-0059 §2.7
    assert cut(item("max", "0")) == ("", {"count": "10"})


def test_a_page_names_its_ends_and_the_index_of_its_first() -> None:
    chosen, result_set = page(LETTERS, str, PageRequest(max=2, after="b"), 100)
    assert chosen == ["c", "d"]
    first = result_set.find(ns.RSM, "first")
    assert first is not None
    assert (first.text, first.get("index")) == ("c", "2")
    assert cut(item("max", "2"), item("after", "b"))[1]["last"] == "d"


def test_no_page_is_larger_than_the_most_that_is_given() -> None:
    assert cut(item("max", "100"), most=4)[0] == "abcd"


@pytest.mark.parametrize("name", ["after", "before"])
def test_an_unknown_item_is_not_found(name: str) -> None:
    # XEP-0059 §2.4
    with pytest.raises(StanzaError, match="item-not-found"):
        cut(item("max", "3"), item(name, "z"))


@pytest.mark.parametrize(
    "children",
    [[item("max", "-1")], [item("max", "x")], [item("index", "")], [item("after"), item("before")]],
)
def test_a_malformed_set_is_a_bad_request(children: list[Element]) -> None:
    with pytest.raises(StanzaError, match="bad-request"):
        request(*children)


@given(st.integers(1, 7), st.booleans())
def test_paging_through_sees_every_item_once(size: int, is_backward: bool) -> None:
    seen: list[str] = []
    asked = PageRequest(max=size, before="" if is_backward else None)
    while True:
        chosen, _ = page(LETTERS, str, asked, 100)
        if not chosen:
            break
        seen = [*chosen, *seen] if is_backward else [*seen, *chosen]
        asked = (
            PageRequest(max=size, before=chosen[0])
            if is_backward
            else PageRequest(max=size, after=chosen[-1])
        )
    assert seen == LETTERS
