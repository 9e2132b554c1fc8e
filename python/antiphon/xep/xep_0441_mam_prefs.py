# SPDX-License-Identifier: Apache-2.0
"""XEP-0441 Message Archive Management Preferences 0.2.0: a user says whom not to archive.

In force from the next message on; `never` wins over `always`, a full address over its bare one.
"""

from antiphon.storage.model import ArchivePrefs
from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid, JidError

xep = Xep(
    441,
    version="0.2.0",
    title="Message Archive Management Preferences",
    requires=[313],
    status="partial",
    note="no ad-hoc command beside it",
)

DEFAULTS = ("always", "never", "roster")


@xep.iq("get", ns.MAM_2, "prefs", to="own")
@xep.iq("get", ns.MAM_1, "prefs", to="own")
@xep.iq("get", ns.MAM_0, "prefs", to="own")
@xep.iq("get", ns.MAM_TMP, "prefs", to="own")
async def get_prefs(ctx: Context, iq: Iq) -> Element:
    """The user's preferences, the server's where none are set (#sect-simple)."""
    return _element(iq.payload.ns, await ctx.store.archive.prefs(iq.to.bare))


@xep.iq("set", ns.MAM_2, "prefs", to="own", ordered=True)
@xep.iq("set", ns.MAM_1, "prefs", to="own", ordered=True)
@xep.iq("set", ns.MAM_0, "prefs", to="own", ordered=True)
@xep.iq("set", ns.MAM_TMP, "prefs", to="own", ordered=True)
async def set_prefs(ctx: Context, iq: Iq) -> Element:
    """Sets all of them, and gives them back as applied; a list that is missing is empty."""
    payload = iq.payload
    default = payload.get("default")
    if default not in DEFAULTS:
        raise StanzaError("bad-request", f"default is one of {', '.join(DEFAULTS)}")
    always, never = _jids(payload, "always"), _jids(payload, "never")
    applied = await ctx.store.archive.set_prefs(iq.to.bare, default, always, never)
    return _element(payload.ns, applied)


def _element(dialect: str, prefs: ArchivePrefs) -> Element:
    def addresses(name: str, jids: tuple[Jid, ...]) -> Element:
        return E(name, dialect, *(E("jid", dialect, str(jid)) for jid in jids))

    always, never = addresses("always", prefs.always), addresses("never", prefs.never)
    return E("prefs", dialect, always, never, default=prefs.default)


def _jids(payload: Element, name: str) -> list[Jid]:
    listed = payload.find(payload.ns, name)
    if listed is None:
        return []
    found: list[Jid] = []
    for child in listed.children:
        if (child.ns, child.name) != (payload.ns, "jid"):
            raise StanzaError("bad-request", f"{name}: a list of <jid/>")
        try:
            found.append(Jid(child.text.strip()))
        except JidError as err:
            raise StanzaError("bad-request", f"{name}: not an address: {err}") from err
    return found
