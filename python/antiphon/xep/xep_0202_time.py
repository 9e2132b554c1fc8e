# SPDX-License-Identifier: Apache-2.0
"""XEP-0202 Entity Time 2.0: what time it is for the server."""

from antiphon.xep._declare import Context, E, Element, Iq, Xep
from antiphon.xmpp import ns
from antiphon.xmpp.stamp import utc_text

xep = Xep(
    202,
    version="2.0",
    title="Entity Time",
    features=[ns.TIME],
)


@xep.iq("get", ns.TIME, "time", to="host")
def entity_time(ctx: Context, _iq: Iq) -> Element:
    """The time in UTC; a server's own offset is nobody's business, so it is always zero."""
    return E("time", ns.TIME, E("tzo", ns.TIME, "+00:00"), E("utc", ns.TIME, utc_text(ctx.now())))
