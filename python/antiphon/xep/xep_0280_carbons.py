# SPDX-License-Identifier: Apache-2.0
"""XEP-0280 Message Carbons 1.0.1: every device of a user sees the whole conversation.

Copies are made in the core; a session turns them on and off here. Every rule of #which-messages is
required of the core, so the feature of these rules is announced.
"""

from antiphon.xep._declare import Context, Iq, StanzaError, Xep
from antiphon.xmpp import ns

xep = Xep(
    280,
    version="1.0.1",
    title="Message Carbons",
    features=[ns.CARBONS, ns.CARBONS_RULES],
    core="carbons",
)


@xep.iq("set", ns.CARBONS, "enable", to="own", ordered=True)
async def enable(ctx: Context, iq: Iq) -> None:
    """From the next message on this session gets copies (#enabling)."""
    await _set(ctx, iq, is_on=True)


@xep.iq("set", ns.CARBONS, "disable", to="own", ordered=True)
async def disable(ctx: Context, iq: Iq) -> None:
    """From the next message on this session gets no copies (#disabling)."""
    await _set(ctx, iq, is_on=False)


async def _set(ctx: Context, iq: Iq, *, is_on: bool) -> None:
    if iq.session is None:
        raise StanzaError("not-allowed", "only a session here has carbons")
    await ctx.store.carbons.set(iq.to.bare, iq.session, is_on)
