# SPDX-License-Identifier: Apache-2.0
"""XEP-0430 Inbox 0.2.0: the list of conversations, the newest first, with exact unread counts.

The same entries as those of Erlang Solutions' inbox, which can change them; this one only lists.
The counts of an answer are those of all conversations that it asks for, not only of the page.
"""

from typing import Final

from antiphon.storage.model import InboxQuery
from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xep._mam_query import page_of, result_set
from antiphon.xmpp import ns
from antiphon.xmpp.rsm import PageRequest

xep = Xep(
    430,
    version="0.2.0",
    title="Inbox",
    owner_features=[ns.INBOX_1],
    requires=[59, 313],
    core="inbox",
)

MOST_ENTRIES: Final = 1_000
"""Conversations in one answer."""


@xep.iq("get", ns.INBOX_1, "inbox", to="own")
async def inbox(ctx: Context, iq: Iq) -> Element:
    """Conversations, one message each, then the answer that ends them (#query)."""
    payload = iq.payload
    if iq.session is None:
        raise StanzaError("not-allowed", "entries go to a session of this server")
    query = InboxQuery(is_unread_only=_flag(payload, "unread-only", is_default=False))
    has_messages = _flag(payload, "messages", is_default=True)
    page = await ctx.store.inbox.page(
        iq.to.bare,
        iq.session,
        query,
        page_of(PageRequest.of(payload), MOST_ENTRIES),
        form="xep0430-messages" if has_messages else "xep0430",
        query_id=payload.get("queryid") or iq.stanza.id,
    )
    return E(
        "fin",
        ns.INBOX_1,
        result_set(page.first, page.last, page.count),
        **{"total": page.count, "unread": page.active, "all-unread": page.unread},
    )


def _flag(payload: Element, name: str, *, is_default: bool) -> bool:
    value = payload.get(name)
    if value is None:
        return is_default
    if value not in ("true", "false", "1", "0"):
        raise StanzaError("bad-request", f"{name}: not a boolean")
    return value in ("true", "1")
