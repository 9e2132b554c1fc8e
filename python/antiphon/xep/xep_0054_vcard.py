# SPDX-License-Identifier: Apache-2.0
"""XEP-0054 vcard-temp 1.3.0: a card about each user, and one about the server."""

from typing import Annotated

from msgspec import Meta, Struct

from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of vCards; those of the server's own card are left out where empty."""

    max_bytes: Annotated[
        int, Meta(ge=1_024, le=1_048_576, description="Largest vCard, its picture included.")
    ] = 196_608
    server_name: Annotated[str, Meta(description="Full name on the server's own vCard.")] = ""
    server_url: Annotated[str, Meta(description="Web page on the server's own vCard.")] = ""
    server_description: Annotated[str, Meta(description="Text on the server's own vCard.")] = ""


xep = Xep(
    54,
    version="1.3.0",
    title="vcard-temp",
    features=[ns.VCARD],
    account_features=[ns.VCARD],
    config=Options,
)


@xep.iq("get", ns.VCARD, "vCard", to="account")
async def get_vcard(ctx: Context, iq: Iq) -> Element:
    """The account's card, which everyone may read. Without one the owner gets an empty card, others
    the same error as for an account that does not exist (#vcard-other)."""
    stored = await ctx.store.vcards.get(iq.to.bare, "")
    if stored is not None:
        return Element.parse(stored)
    if iq.is_own:
        return E("vCard", ns.VCARD)
    raise StanzaError("service-unavailable")


@xep.iq("set", ns.VCARD, "vCard", to="account")
async def set_vcard(ctx: Context, iq: Iq) -> None:
    """Replaces one's own card."""
    if not iq.is_own:
        raise StanzaError("forbidden", "a vCard is set by its owner")
    value = iq.payload.to_bytes()
    most = xep.options(ctx, Options).max_bytes
    if len(value) > most:
        raise StanzaError("not-acceptable", f"more than {most} bytes")
    await ctx.store.vcards.put(iq.to.bare, "", value)


@xep.iq("get", ns.VCARD, "vCard", to="host")
def get_host_vcard(ctx: Context, _iq: Iq) -> Element:
    """The card of the server, from its options."""
    options = xep.options(ctx, Options)
    if not (options.server_name or options.server_url or options.server_description):
        raise StanzaError("service-unavailable")
    return E(
        "vCard",
        ns.VCARD,
        E("FN", ns.VCARD, options.server_name or ctx.host.domain),
        E("URL", ns.VCARD, options.server_url) if options.server_url else None,
        E("DESC", ns.VCARD, options.server_description) if options.server_description else None,
        E("JABBERID", ns.VCARD, ctx.host.domain),
    )
