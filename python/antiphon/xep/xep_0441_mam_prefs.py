# SPDX-License-Identifier: Apache-2.0
"""XEP-0441 Message Archive Management Preferences 0.2.0: a user says whom not to archive.

In force from the next message on; `never` wins over `always`, a full address over its bare one.
The same can be filled out as a form, by the ad-hoc command of #sect-adhoc that the server has.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from antiphon.storage.model import ArchivePrefs
from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xep.xep_0050_commands import (
    ADHOC_COMMANDS,
    KNOWN_NODES,
    AdHocCommand,
    Done,
    Note,
    Stage,
)
from antiphon.xmpp import ns
from antiphon.xmpp.forms import Field, Form, Option, Submission
from antiphon.xmpp.jid import Jid, JidError

xep = Xep(
    441,
    version="0.2.0",
    title="Message Archive Management Preferences",
    requires=[50, 313],
)

Default = Literal["always", "never", "roster"]
DEFAULTS: Final[tuple[Default, ...]] = ("always", "never", "roster")

_LABELS: Final[dict[Default, str]] = {
    "always": "Everybody",
    "never": "Nobody",
    "roster": "Who is in your contact list",
}


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


# The command (#sect-adhoc).


@xep.hook(KNOWN_NODES)
def known_nodes(_ctx: Context, _none: None) -> frozenset[str]:
    """The node of the command; strangers are told that it is not for them."""
    return frozenset((ns.MAM_CONFIGURE,))


@xep.hook(ADHOC_COMMANDS)
def offered(ctx: Context, requester: Jid) -> Sequence[AdHocCommand]:
    """The command, to the host's own users."""
    is_own = requester.local is not None and requester.domain == ctx.host.domain
    return (_COMMAND,) if is_own else ()


async def _configure(ctx: Context, iq: Iq) -> Stage:
    owner = iq.frm.bare
    prefs = await ctx.store.archive.prefs(owner)

    async def submit(values: Submission) -> Done:
        default = msgspec.convert(values.text("default"), Default)
        always, never = values.jids("always"), values.jids("never")
        await ctx.store.archive.set_prefs(owner, default, always, never)
        return Done(notes=(Note("Your preferences are in force from the next message on."),))

    return Stage(form=_form(prefs), submit=submit)


def _form(prefs: ArchivePrefs) -> Form:
    """The preferences to fill out, with those in force."""
    options = tuple(Option(value, _LABELS[value]) for value in DEFAULTS)
    return Form(
        kind="form",
        form_type=ns.MAM_CONFIGURE,
        title=_COMMAND.name,
        instructions="Whose messages are kept. What is said of an address goes before the rest.",
        fields=(
            Field(
                var="default",
                kind="list-single",
                label="Keep messages with",
                values=(prefs.default,),
                options=options,
                is_required=True,
            ),
            Field(
                var="always",
                kind="jid-multi",
                label="Always keep messages with",
                values=tuple(map(str, prefs.always)),
            ),
            Field(
                var="never",
                kind="jid-multi",
                label="Never keep messages with",
                values=tuple(map(str, prefs.never)),
            ),
        ),
    )


_COMMAND: Final = AdHocCommand(
    node=ns.MAM_CONFIGURE, name="Configure the message archive", start=_configure
)
