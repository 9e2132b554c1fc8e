# SPDX-License-Identifier: Apache-2.0
"""Result set management (XEP-0059): pages of an ordered list."""

from collections.abc import Callable, Sequence
from typing import Final, Self, TypeVar

from msgspec import Struct

from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E, Element

T = TypeVar("T")


class PageRequest(Struct, frozen=True, kw_only=True):
    """What a `<set/>` asks for. `before` may be empty: the last page (XEP-0059 §2.5)."""

    max: int | None = None
    after: str | None = None
    before: str | None = None
    index: int | None = None

    @classmethod
    def of(cls, payload: Element) -> Self | None:
        """The `<set/>` in this payload; None without one. Raises `bad-request`."""
        element = payload.find(ns.RSM, "set")
        if element is None:
            return None
        texts = {child.name: child.text for child in element.children if child.ns == ns.RSM}
        if "after" in texts and "before" in texts:
            raise StanzaError("bad-request", "a page has either 'after' or 'before'")
        return cls(
            max=_number(texts.get("max")),
            after=texts.get("after"),
            before=texts.get("before"),
            index=_number(texts.get("index")),
        )


LARGEST: Final = 1_000_000_000
"""A larger number counts as this one: every page has its own limit anyway."""


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise StanzaError("bad-request", "not a number in the result set")
    return int(text) if len(text) < 10 else LARGEST


def page(
    items: Sequence[T], key: Callable[[T], str], request: PageRequest, most: int
) -> tuple[Sequence[T], Element]:
    """One page of a whole list, in the list's order, and the `<set/>` that describes it.

    `most` is the largest page given. Raises `item-not-found` for an unknown key (§2.4), where
    the list's order does not tell what follows it.
    """
    count = len(items)
    size = most if request.max is None else min(request.max, most)
    if request.after:
        start = _position(items, key, request.after) + 1
    elif request.before is not None:
        end = _position(items, key, request.before) if request.before else count
        start = max(0, end - size)
        size = end - start
    else:
        start = request.index or 0
    chosen = items[start : start + size]
    if not chosen:
        return chosen, E("set", ns.RSM, E("count", ns.RSM, str(count)))
    return chosen, E(
        "set",
        ns.RSM,
        E("first", ns.RSM, key(chosen[0]), index=start),
        E("last", ns.RSM, key(chosen[-1])),
        E("count", ns.RSM, str(count)),
    )


def _position(items: Sequence[T], key: Callable[[T], str], wanted: str) -> int:
    for position, item in enumerate(items):
        if key(item) == wanted:
            return position
    raise StanzaError("item-not-found")
