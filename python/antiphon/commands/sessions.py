# SPDX-License-Identifier: Apache-2.0
"""Commands on sessions: who is online."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Struct

from antiphon.commands._registry import CommandContext, CommandError, command
from antiphon.storage.model import SessionSummary
from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import utc_text

PAGE = 500
"""Sessions read at once where all of a domain's are looked at."""

MOST_ASKED = 10_000
"""Users whose presence is looked at to tell the active from the idle."""

AT_ONCE = 32


class SessionLine(Struct, frozen=True):
    """A session in a listing; `priority` is None before initial presence."""

    jid: str
    priority: int | None
    show: str | None
    has_carbons: bool


class LastActivity(Struct, frozen=True):
    """When an account was last there: `at` in the form of XEP-0082, None for never."""

    at: str | None
    status: str
    is_online: bool


@command
async def list_sessions(
    ctx: CommandContext,
    domain: Annotated[str, "a served domain"],
    after: Annotated[str | None, "full JID behind which to go on"] = None,
    limit: Annotated[int, "at most so many, 1 to 1,000"] = 1_000,
) -> list[str]:
    """Lists the full JIDs of a domain's sessions."""
    host = ctx.host(domain)
    if not 1 <= limit <= 1_000:
        raise CommandError("bad-request", "limit is 1 to 1000")
    return [str(j) for j in await ctx.store.sessions.all(host.host.domain, after, limit)]


@command
async def count_sessions(
    ctx: CommandContext, domain: Annotated[str | None, "a served domain; left out: all"] = None
) -> int:
    """Counts the sessions of a domain, or of all; in a cluster those of all nodes."""
    if domain is None:
        ctx.everything()
    else:
        ctx.host(domain)
    return await ctx.store.sessions.count(domain)


@command
async def user_sessions(
    ctx: CommandContext, jid: Annotated[Jid, "bare JID of the account"]
) -> list[SessionLine]:
    """Lists the sessions of one account with their presence."""
    found = await ctx.store.sessions.list(ctx.account(jid))
    return [SessionLine(str(s.jid), s.priority, _show(s), s.has_carbons) for s in found]


@command
async def end_session(
    ctx: CommandContext, jid: Annotated[Jid, "an account, or one full JID"]
) -> int:
    """Ends all sessions of an account, or one of them; the number of those ended."""
    account = ctx.account(jid)
    if await ctx.store.accounts.state(account) is None:
        raise CommandError("item-not-found", f"there is no account {account}")
    # RFC 6120 §4.9.3.12: the account itself may log in again, so it is no `not-authorized`.
    return await ctx.store.sessions.kick(account, jid.resource, "reset")


@command
async def last_activity(
    ctx: CommandContext, jid: Annotated[Jid, "bare JID of the account"]
) -> LastActivity:
    """Tells when an account was last online."""
    account = ctx.account(jid)
    if await ctx.store.accounts.state(account) is None:
        raise CommandError("item-not-found", f"there is no account {account}")
    seen = await ctx.store.activity.last(account)
    return LastActivity(None if seen.at is None else utc_text(seen.at), seen.status, seen.is_online)


async def sessions_of(ctx: CommandContext, domain: str) -> AsyncIterator[list[Jid]]:
    """The full JIDs of a domain's sessions, page by page."""
    host = ctx.host(domain)
    after: str | None = None
    while True:
        page = await ctx.store.sessions.all(host.host.domain, after, PAGE)
        if page:
            yield page
        if len(page) < PAGE:
            return
        after = str(page[-1])


async def online_users(ctx: CommandContext, domain: str, most: int | None) -> list[Jid]:
    """Bare JIDs with at least one session, at most `most`, in the order of their text."""
    found: dict[Jid, None] = {}
    async for page in sessions_of(ctx, domain):
        found.update(dict.fromkeys(jid.bare for jid in page))
        if most is not None and len(found) >= most:
            break
    users = list(found)
    return users if most is None else users[:most]


async def users_by_activity(
    ctx: CommandContext, domain: str, *, is_idle: bool, most: int | None
) -> list[Jid]:
    """Online users who are idle, or who are not; at most `most`.

    Idle is who has no available session, or only such that say `away` or `xa`. Looks at no more
    than MOST_ASKED users; refused with `resource-constraint` where there are more.
    """
    users = await online_users(ctx, domain, MOST_ASKED + 1)
    if len(users) > MOST_ASKED:
        raise CommandError("resource-constraint", f"more than {MOST_ASKED} users are online")
    found: list[Jid] = []
    for start in range(0, len(users), AT_ONCE):
        some = users[start : start + AT_ONCE]
        sessions = await asyncio.gather(*(ctx.store.sessions.list(user) for user in some))
        for user, each in zip(some, sessions, strict=True):
            if _is_idle(each) == is_idle:
                found.append(user)
        if most is not None and len(found) >= most:
            return found[:most]
    return found


def _is_idle(sessions: list[SessionSummary]) -> bool:
    return all(s.priority is None or _show(s) in ("away", "xa") for s in sessions)


def _show(session: SessionSummary) -> str | None:
    """`<show/>` of a session's presence (RFC 6121 §4.7.2.1)."""
    show = session.presence.find(ns.CLIENT, "show") if session.presence is not None else None
    return None if show is None else show.text
