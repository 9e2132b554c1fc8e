# SPDX-License-Identifier: Apache-2.0
"""XEP-0012 Last Activity 2.0: when was this account last online?"""

from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns

xep = Xep(
    12,
    version="2.0",
    title="Last Activity",
    features=[ns.LAST],
    account_features=[ns.LAST],
)


@xep.iq("get", ns.LAST, "query", to="account")
async def last_activity(ctx: Context, iq: Iq) -> Element:
    """Seconds since the last resource went offline, for those who may see presence (#offline)."""
    if not await ctx.may_see_presence(of=iq.to.bare, by=iq.frm.bare):
        raise StanzaError("forbidden")
    seen = await ctx.store.activity.last(iq.to.bare)
    if seen.is_online:
        return E("query", ns.LAST, seconds=0)
    if seen.at is None:
        raise StanzaError("item-not-found", "this account was never online")
    seconds = max(0, int((ctx.now() - seen.at).total_seconds()))
    return E("query", ns.LAST, seen.status or None, seconds=seconds)


@xep.iq("get", ns.LAST, "query", to="host")
async def uptime(ctx: Context, _iq: Iq) -> Element:
    """Seconds since the node started (#server)."""
    stats = await ctx.store.node.stats()
    return E("query", ns.LAST, seconds=stats["uptime_s"])
