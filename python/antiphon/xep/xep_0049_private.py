# SPDX-License-Identifier: Apache-2.0
"""XEP-0049 Private XML Storage 1.2: a client keeps its settings on the server."""

from typing import Annotated

from msgspec import Meta, Struct

from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of private storage."""

    max_bytes: Annotated[
        int, Meta(ge=1_024, le=1_048_576, description="Largest element that is stored.")
    ] = 131_072
    max_elements: Annotated[
        int, Meta(ge=1, le=1_000, description="Elements that one account may store.")
    ] = 100


xep = Xep(
    49,
    version="1.2",
    title="Private XML Storage",
    features=[ns.PRIVATE],
    owner_features=[ns.PRIVATE],
    config=Options,
)


@xep.iq("get", ns.PRIVATE, "query", to="own")
async def get_private(ctx: Context, iq: Iq) -> Element:
    """What is stored under the element's name and namespace; the empty element if nothing is."""
    children = iq.payload.children
    if len(children) != 1:
        # The condition that XEP-0049 #examples names does not exist; deployed servers use this.
        raise StanzaError("not-acceptable", "name one element")
    (asked,) = children
    _check(asked)
    stored = await ctx.store.private.get(iq.to.bare, _key(asked))
    return E("query", ns.PRIVATE, E(asked.name, asked.ns) if stored is None else _parsed(stored))


@xep.iq("set", ns.PRIVATE, "query", to="own")
async def set_private(ctx: Context, iq: Iq) -> None:
    """Stores each child under its name and namespace."""
    options = xep.options(ctx, Options)
    children = iq.payload.children
    if not children:
        raise StanzaError("not-acceptable", "there is nothing to store")
    values: dict[str, bytes] = {}
    for child in children:
        _check(child)
        value = child.to_bytes()
        if len(value) > options.max_bytes:
            raise StanzaError("not-acceptable", f"more than {options.max_bytes} bytes")
        if _key(child) in values:
            raise StanzaError("bad-request", "an element twice")
        values[_key(child)] = value
    known = set(await ctx.store.private.keys(iq.to.bare, ""))
    if len(known.union(values)) > options.max_elements:
        raise StanzaError("resource-constraint", f"more than {options.max_elements} elements")
    for key, value in values.items():
        await ctx.store.private.put(iq.to.bare, key, value)


def _check(element: Element) -> None:
    """Refuses the reserved namespaces (#errors)."""
    is_reserved = element.ns.startswith(("jabber:", "http://jabber.org/")) or element.ns == ns.VCARD
    if is_reserved or not element.ns:
        raise StanzaError("not-acceptable", "this namespace is reserved")


def _key(element: Element) -> str:
    return f"{{{element.ns}}}{element.name}"


def _parsed(value: bytes) -> Element:
    return Element.parse(value)
