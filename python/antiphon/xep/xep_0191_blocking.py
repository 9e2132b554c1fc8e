# SPDX-License-Identifier: Apache-2.0
"""XEP-0191 Blocking Command 1.3: a user shuts others out, from the very next stanza.

Every stanza is checked in the core; the list is managed here.
"""

from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid, parse_jid

xep = Xep(
    191,
    version="1.3",
    title="Blocking Command",
    features=[ns.BLOCKING],
    core="blocking",
)


@xep.iq("get", ns.BLOCKING, "blocklist", to="own", ordered=True)
async def block_list(ctx: Context, iq: Iq) -> Element:
    """The list; the session that asks gets pushes from now on (#blocklist)."""
    jids = await ctx.store.blocks.list(iq.to.bare, iq.session)
    items = (E("item", ns.BLOCKING, jid=str(jid)) for jid in jids)
    return E("blocklist", ns.BLOCKING, *items)


@xep.iq("set", ns.BLOCKING, "block", to="own", ordered=True)
async def block(ctx: Context, iq: Iq) -> None:
    """Blocks at least one address (#block)."""
    jids = _jids(iq.payload)
    if not jids:
        raise StanzaError("bad-request", "there is nobody to block")
    await ctx.store.blocks.add(iq.to.bare, jids)


@xep.iq("set", ns.BLOCKING, "unblock", to="own", ordered=True)
async def unblock(ctx: Context, iq: Iq) -> None:
    """Unblocks these addresses; none named: all (#unblockall)."""
    jids = _jids(iq.payload)
    if not jids and iq.payload.children:
        # Only a truly empty element unblocks everybody; anything else is a mistake.
        raise StanzaError("bad-request")
    await ctx.store.blocks.remove(iq.to.bare, jids)


def _jids(payload: Element) -> list[Jid]:
    items = (c for c in payload.children if (c.ns, c.name) == (ns.BLOCKING, "item"))
    return list(dict.fromkeys(parse_jid(item.get("jid")) for item in items))
