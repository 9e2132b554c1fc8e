# SPDX-License-Identifier: Apache-2.0
"""XEP-0050 Ad-Hoc Commands 1.3.0: forms in any client that run commands of the server."""

import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

from antiphon.hooks.bus import Point
from antiphon.hooks.context import Slot
from antiphon.xep._declare import Context, E, Element, Identity, Iq, StanzaError, Xep
from antiphon.xep.xep_0030_disco import NODE_INFO, NODE_ITEMS, NodeQuery
from antiphon.xmpp import ns
from antiphon.xmpp.disco import Info, Item
from antiphon.xmpp.errors import Condition
from antiphon.xmpp.forms import Form, FormError, Submission
from antiphon.xmpp.jid import Jid

xep = Xep(
    50,
    version="1.3.0",
    title="Ad-Hoc Commands",
    features=[ns.COMMANDS],
    requires=[4, 30],
)

MOST_SESSIONS: Final = 1_000
MOST_SESSIONS_EACH: Final = 10
LIFETIME: Final = timedelta(minutes=10)
"""Sessions of one host, of one requester (the oldest goes), and how long an idle one lives."""

ACTIONS: Final = ("execute", "next", "prev", "complete", "cancel")


class Note(Struct, frozen=True):
    """A remark for the user; a command that failed has one of type `error` (#failed)."""

    text: str
    type: Literal["info", "warn", "error"] = "info"


class Done(Struct, frozen=True, kw_only=True):
    """The end of a command."""

    payload: Form | None = None
    notes: tuple[Note, ...] = ()


class Stage(Struct, frozen=True, kw_only=True):
    """A form to fill out, and what to do with it.

    `is_last` says whether submitting it completes the command; otherwise `submit` gives the next
    stage.
    """

    form: Form
    submit: "Callable[[Submission], Awaitable[Stage | Done]]"
    is_last: bool = True


class AdHocCommand(Struct, frozen=True, kw_only=True):
    """A command of the host. `start` is called for each execution, with the request."""

    node: str
    name: str
    start: Callable[[Context, Iq], Awaitable[Stage | Done]]


ADHOC_COMMANDS: Final[Point[Context, Jid, Sequence[AdHocCommand]]] = Point("ad-hoc commands")
"""Commands that this requester (a full JID) may execute; others are hidden from him."""

KNOWN_NODES: Final[Point[Context, None, frozenset[str]]] = Point("ad-hoc nodes")
"""Nodes of all commands, whoever may execute them: `forbidden` is told from `item-not-found`."""


class _Session:
    """One execution: the stages passed, the current one last."""

    __slots__ = ("node", "requester", "stages", "used")

    def __init__(self, node: str, requester: Jid, used: datetime) -> None:
        self.node = node
        self.requester = requester
        self.used = used
        self.stages: list[Stage] = []


class _Sessions:
    """Executions that wait for their user, the longest unused first; bounded."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, node: str, requester: Jid, now: datetime) -> tuple[str, _Session]:
        """A new session under an unguessable id."""
        self._expire(now)
        own = [key for key, one in self._sessions.items() if one.requester == requester]
        if len(own) >= MOST_SESSIONS_EACH:
            del self._sessions[own[0]]
        elif len(self._sessions) >= MOST_SESSIONS:
            raise StanzaError("resource-constraint", "too many commands are being executed")
        key = secrets.token_urlsafe(16)
        session = _Session(node, requester, now)
        self._sessions[key] = session
        return key, session

    def find(self, key: str, requester: Jid, now: datetime) -> _Session | None:
        """The session of this id, if it is this requester's (the same full JID)."""
        self._expire(now)
        session = self._sessions.get(key)
        if session is None or session.requester != requester:
            return None
        session.used = now
        self._sessions.move_to_end(key)
        return session

    def close(self, key: str) -> None:
        """Forgets a session."""
        self._sessions.pop(key, None)

    def _expire(self, now: datetime) -> None:
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if now - session.used < LIFETIME:
                return
            del self._sessions[key]


SESSIONS: Final = Slot(_Sessions)


@xep.iq("set", ns.COMMANDS, "command", to="host")
async def execute(ctx: Context, iq: Iq) -> Element:
    """Starts a command, or goes on with one (#execute)."""
    payload = iq.payload
    action = payload.get("action", "execute")
    if action not in ACTIONS:
        raise _refused("bad-request", "malformed-action")
    node = payload.get("node")
    if not node:
        raise StanzaError("bad-request", "a command has a node")
    command = _command(ctx, node, iq.frm)
    key = payload.get("sessionid")
    sessions = SESSIONS.of(ctx)
    if key is None:
        return await _start(ctx, iq, command, action)
    session = sessions.find(key, iq.frm, ctx.now())
    if session is None:
        raise _refused("not-allowed", "session-expired")
    if session.node != node:
        raise _refused("bad-request", "bad-sessionid")
    if action == "cancel":
        sessions.close(key)
        return E("command", ns.COMMANDS, node=node, sessionid=key, status="canceled")
    if action == "prev":
        if len(session.stages) < 2:
            raise _refused("bad-request", "bad-action")
        session.stages.pop()
        return _executing(session, key)
    return await _submit(sessions, session, key, iq, action)


async def _start(ctx: Context, iq: Iq, command: AdHocCommand, action: str | None) -> Element:
    if action == "cancel":
        raise _refused("bad-request", "bad-sessionid")
    if action == "prev":
        raise _refused("bad-request", "bad-action")
    outcome = await command.start(ctx, iq)
    if isinstance(outcome, Done):
        return _completed(command.node, secrets.token_urlsafe(16), outcome)
    key, session = SESSIONS.of(ctx).open(command.node, iq.frm, ctx.now())
    session.stages.append(outcome)
    return _executing(session, key)


async def _submit(
    sessions: _Sessions, session: _Session, key: str, iq: Iq, action: str | None
) -> Element:
    stage = session.stages[-1]
    # `execute` means the default action of the stage (#actions).
    wanted = "complete" if stage.is_last else "next"
    if action not in ("execute", wanted):
        raise _refused("bad-request", "bad-action")
    try:
        submission = stage.form.submitted(iq.payload.find(ns.DATA, "x"))
    except FormError as err:
        raise _refused("bad-request", "bad-payload", err.text) from err
    if stage.is_last:
        # A command runs once: a repeated request finds its session gone, also while it runs.
        sessions.close(key)
    try:
        outcome = await stage.submit(submission)
    except FormError as err:
        raise _refused("bad-request", "bad-payload", err.text) from err
    if isinstance(outcome, Done):
        sessions.close(key)
        return _completed(session.node, key, outcome)
    session.stages.append(outcome)
    return _executing(session, key)


def _executing(session: _Session, key: str) -> Element:
    stage = session.stages[-1]
    default = "complete" if stage.is_last else "next"
    return E(
        "command",
        ns.COMMANDS,
        E(
            "actions",
            ns.COMMANDS,
            E("prev", ns.COMMANDS) if len(session.stages) > 1 else None,
            E(default, ns.COMMANDS),
            execute=default,
        ),
        stage.form.to_element(),
        node=session.node,
        sessionid=key,
        status="executing",
    )


def _completed(node: str, key: str, done: Done) -> Element:
    return E(
        "command",
        ns.COMMANDS,
        done.payload.to_element() if done.payload is not None else None,
        *(E("note", ns.COMMANDS, note.text, type=note.type) for note in done.notes),
        node=node,
        sessionid=key,
        status="completed",
    )


def _refused(condition: Condition, detail: str, text: str | None = None) -> StanzaError:
    """An error with its specific condition (XEP-0050 table 5)."""
    return StanzaError(condition, text, app=E(detail, ns.COMMANDS))


def _allowed(ctx: Context, requester: Jid) -> list[AdHocCommand]:
    return [one for f in ctx.bus.of(ADHOC_COMMANDS) for one in f(ctx, requester)]


def _command(ctx: Context, node: str, requester: Jid) -> AdHocCommand:
    for command in _allowed(ctx, requester):
        if command.node == node:
            return command
    if any(node in function(ctx, None) for function in ctx.bus.of(KNOWN_NODES)):
        raise StanzaError("forbidden")
    raise StanzaError("item-not-found")


@xep.hook(NODE_ITEMS)
async def items(ctx: Context, query: NodeQuery) -> Sequence[Item] | None:
    """The commands that the requester may execute (#retrieve)."""
    if query.node == ns.COMMANDS:
        return [
            Item(ctx.host.jid, node=one.node, name=one.name) for one in _allowed(ctx, query.iq.frm)
        ]
    is_known = any(query.node in function(ctx, None) for function in ctx.bus.of(KNOWN_NODES))
    return [] if is_known else None


@xep.hook(NODE_INFO)
async def info(ctx: Context, query: NodeQuery) -> Info | None:
    """The list of commands, or one of them (#disco)."""
    if query.node == ns.COMMANDS:
        identity = Identity("automation", "command-list", name="Commands")
        return Info((identity,), (ns.DISCO_INFO, ns.DISCO_ITEMS, ns.COMMANDS))
    try:
        command = _command(ctx, query.node, query.iq.frm)
    except StanzaError as err:
        if err.condition == "item-not-found":
            return None
        raise
    identity = Identity("automation", "command-node", name=command.name)
    return Info((identity,), (ns.DISCO_INFO, ns.COMMANDS, ns.DATA))
