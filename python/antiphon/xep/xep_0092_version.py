# SPDX-License-Identifier: Apache-2.0
"""XEP-0092 Software Version 1.1: which software and version the server is."""

import platform
from typing import Annotated

from msgspec import Meta, Struct

from antiphon import __version__
from antiphon.xep._declare import Context, E, Element, Iq, Xep
from antiphon.xmpp import ns


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server tells of itself."""

    show_os: Annotated[
        bool, Meta(description="Tell the operating system too (XEP-0092 #security).")
    ] = False


xep = Xep(
    92,
    version="1.1",
    title="Software Version",
    features=[ns.VERSION],
    config=Options,
)


@xep.iq("get", ns.VERSION, "query", to="host")
def software_version(ctx: Context, _iq: Iq) -> Element:
    """Name and version, and the operating system if the operator wants that."""
    show_os = xep.options(ctx, Options).show_os
    return E(
        "query",
        ns.VERSION,
        E("name", ns.VERSION, "Antiphon"),
        E("version", ns.VERSION, __version__),
        E("os", ns.VERSION, platform.system()) if show_os else None,
    )
