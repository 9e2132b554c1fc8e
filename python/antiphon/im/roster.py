# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §2 Roster: a user's contacts, kept by the server.

The core keeps the roster, pushes its changes and stamps its version; the form of requests is judged
here. Another user's roster is `forbidden`, whether it exists or not (§2.1.5, §2.3.3).
"""

from typing import Final

from antiphon.xep._declare import Context, Element, Iq, Rfc, StanzaError
from antiphon.xmpp import ns
from antiphon.xmpp.jid import parse_jid

rfc = Rfc(6121, "2", title="Roster", is_switchable=False)

LONGEST_NAME: Final = 1_023
LONGEST_GROUP: Final = 1_023
MOST_GROUPS: Final = 50
"""Bytes of a contact's name and of a group's, as of a part of an address; groups of a contact."""


@rfc.iq("get", ns.ROSTER, "query", to="own", ordered=True)
async def get_roster(ctx: Context, iq: Iq) -> Element | None:
    """The roster, or nothing at all where the client's version is current (RFC 6121 §2.6.2)."""
    if iq.payload.children:
        # RFC 6121 §2.1.3: a get holds no items.
        raise StanzaError("bad-request")
    return await ctx.store.roster.get(iq.to.bare, iq.session, iq.payload.get("ver"))


@rfc.iq("set", ns.ROSTER, "query", to="own", ordered=True)
async def set_roster(ctx: Context, iq: Iq) -> None:
    """Adds, changes or removes one contact (RFC 6121 §2.3 to §2.5)."""
    items = [
        child for child in iq.payload.children if (child.ns, child.name) == (ns.ROSTER, "item")
    ]
    if len(items) != 1 or len(iq.payload.children) != 1:
        raise StanzaError("bad-request", "a roster set holds one item")
    (item,) = items
    jid = parse_jid(item.get("jid"))
    if item.get("subscription") == "remove":
        await ctx.store.roster.remove(iq.to.bare, jid)
        return
    if jid == iq.to.bare:
        raise StanzaError("not-allowed", "nobody is his own contact")
    # Any other `subscription`, and `ask`, are the server's to say (RFC 6121 §2.1.2).
    await ctx.store.roster.set(iq.to.bare, jid, _name(item), _groups(item))


def _name(item: Element) -> str:
    name = item.get("name") or ""
    if len(name.encode()) > LONGEST_NAME:
        raise StanzaError("not-acceptable", f"a name has at most {LONGEST_NAME} bytes")
    return name


def _groups(item: Element) -> list[str]:
    groups = [
        child.text for child in item.children if (child.ns, child.name) == (ns.ROSTER, "group")
    ]
    if len(set(groups)) != len(groups):
        raise StanzaError("bad-request", "a group twice")
    if len(groups) > MOST_GROUPS:
        raise StanzaError("not-acceptable", f"a contact is in at most {MOST_GROUPS} groups")
    for group in groups:
        if not group:
            raise StanzaError("not-acceptable", "a group without a name")
        if len(group.encode()) > LONGEST_GROUP:
            raise StanzaError("not-acceptable", f"a group has at most {LONGEST_GROUP} bytes")
    return groups
