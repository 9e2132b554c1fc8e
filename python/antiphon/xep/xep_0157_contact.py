# SPDX-License-Identifier: Apache-2.0
"""XEP-0157 Contact Addresses for XMPP Services 1.1.1: whom to tell about abuse and trouble."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct, structs

from antiphon.xep._declare import Context, Element, Xep
from antiphon.xep.xep_0030_disco import HOST_FORMS
from antiphon.xmpp import ns
from antiphon.xmpp.forms import Field, Form

Uri = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s]+$")]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses as URIs, such as `mailto:abuse@chat.example` or `xmpp:admin@chat.example`."""

    abuse: Annotated[tuple[Uri, ...], Meta(description="Reports of abuse.")] = ()
    admin: Annotated[tuple[Uri, ...], Meta(description="The administrators.")] = ()
    feedback: Annotated[tuple[Uri, ...], Meta(description="Feedback of customers.")] = ()
    sales: Annotated[tuple[Uri, ...], Meta(description="Sales.")] = ()
    security: Annotated[tuple[Uri, ...], Meta(description="Security concerns.")] = ()
    status: Annotated[tuple[Uri, ...], Meta(description="Status of the service.")] = ()
    support: Annotated[tuple[Uri, ...], Meta(description="Technical support.")] = ()


xep = Xep(
    157,
    version="1.1.1",
    title="Contact Addresses for XMPP Services",
    requires=[30, 128],
    config=Options,
)


@xep.hook(HOST_FORMS)
def contact_form(ctx: Context, _none: None) -> Sequence[Element]:
    """The form of the addresses that are configured; none without any."""
    given: dict[str, tuple[str, ...]] = structs.asdict(xep.options(ctx, Options))
    fields = tuple(
        Field(var=f"{kind}-addresses", kind="list-multi", values=addresses)
        for kind, addresses in given.items()
        if addresses
    )
    if not fields:
        return ()
    return (Form(kind="result", form_type=ns.SERVERINFO, fields=fields).to_element(),)
