# SPDX-License-Identifier: Apache-2.0
"""XEP-0030 Service Discovery 2.5.0: what the server and its accounts are and can do."""

from collections.abc import Awaitable, Sequence
from typing import Final

from msgspec import Struct

from antiphon.hooks.bus import Point
from antiphon.xep._declare import Context, Element, Identity, Iq, StanzaError, Xep
from antiphon.xmpp import ns
from antiphon.xmpp.disco import Info, Item
from antiphon.xmpp.rsm import PageRequest, page
from antiphon.xmpp.stanza import E

xep = Xep(
    30,
    version="2.5.0",
    title="Service Discovery",
    features=[ns.DISCO_INFO, ns.DISCO_ITEMS],
    account_features=[ns.DISCO_INFO, ns.DISCO_ITEMS],
    identities=[Identity("server", "im", name="Antiphon")],
)

MOST_ITEMS: Final = 500
"""Items in one answer; a client that wants more pages (XEP-0059)."""


class NodeQuery(Struct, frozen=True):
    """A question about a node of the host."""

    iq: Iq
    node: str


HOST_FORMS: Final[Point[Context, None, Sequence[Element]]] = Point("host forms")
"""Forms in the host's disco#info (XEP-0128), fixed while the configuration is."""

NODE_INFO: Final[Point[Context, NodeQuery, Awaitable[Info | None]]] = Point("node info")
"""Disco#info of a node of the host; None where the node is not the feature's."""

NODE_ITEMS: Final[Point[Context, NodeQuery, Awaitable[Sequence[Item] | None]]] = Point("node items")
"""Disco#items of a node of the host; None where the node is not the feature's."""


def host_info(ctx: Context) -> Info:
    """The host's own answer, the same for everyone (its hash is announced, XEP-0115)."""
    forms = [form for function in ctx.bus.of(HOST_FORMS) for form in function(ctx, None)]
    return Info(ctx.host.identities, ctx.host.features, tuple(forms))


@xep.iq("get", ns.DISCO_INFO, "query", to="host")
async def info_of_host(ctx: Context, iq: Iq) -> Element:
    """The host, or one of its nodes; the node is mirrored (#info-nodes)."""
    node = iq.payload.get("node")
    if node is None:
        return host_info(ctx).to_element()
    for function in ctx.bus.of(NODE_INFO):
        info = await function(ctx, NodeQuery(iq, node))
        if info is not None:
            return info.to_element(node)
    raise StanzaError("item-not-found")


@xep.iq("get", ns.DISCO_ITEMS, "query", to="host")
async def items_of_host(ctx: Context, iq: Iq) -> Element:
    """Components, or what a node holds."""
    node = iq.payload.get("node")
    if node is None:
        return _items(iq, [Item(jid) for jid in ctx.host.components])
    for function in ctx.bus.of(NODE_ITEMS):
        items = await function(ctx, NodeQuery(iq, node))
        if items is not None:
            return _items(iq, items)
    raise StanzaError("item-not-found")


@xep.iq("get", ns.DISCO_INFO, "query", to="account")
async def info_of_account(ctx: Context, iq: Iq) -> Element:
    """The owner sees all, who may see presence the public part, a stranger as much as of an
    account that does not exist (#security)."""
    if not await ctx.may_see_presence(of=iq.to.bare, by=iq.frm.bare):
        raise StanzaError("service-unavailable")
    if iq.payload.get("node") is not None:
        raise StanzaError("item-not-found")
    features = ctx.host.account_features
    if iq.is_own:
        features = tuple(dict.fromkeys((*features, *ctx.host.owner_features)))
    return Info((Identity("account", "registered"),), features).to_element()


@xep.iq("get", ns.DISCO_ITEMS, "query", to="account")
async def items_of_account(ctx: Context, iq: Iq) -> Element:
    """The available resources, for those who may see presence; nothing for others (#security)."""
    may_see = await ctx.may_see_presence(of=iq.to.bare, by=iq.frm.bare)
    if not may_see:
        return _items(iq, [])
    if iq.payload.get("node") is not None:
        raise StanzaError("item-not-found")
    sessions = await ctx.store.sessions.list(iq.to.bare)
    return _items(iq, [Item(one.jid) for one in sessions if one.priority is not None])


def _items(iq: Iq, items: Sequence[Item]) -> Element:
    request = PageRequest.of(iq.payload)
    node = iq.payload.get("node")
    if request is None and len(items) <= MOST_ITEMS:
        return E("query", ns.DISCO_ITEMS, *(item.to_element() for item in items), node=node)
    chosen, result_set = page(items, _key, request or PageRequest(), MOST_ITEMS)
    elements = [item.to_element() for item in chosen]
    return E("query", ns.DISCO_ITEMS, *elements, result_set, node=node)


def _key(item: Item) -> str:
    return str(item.jid) if item.node is None else f"{item.jid}#{item.node}"
