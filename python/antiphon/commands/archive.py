# SPDX-License-Identifier: Apache-2.0
"""Commands on archives: how much there is, and deleting it."""

from datetime import datetime
from typing import Annotated

from msgspec import Struct

from antiphon.commands._registry import CommandContext, CommandError, command
from antiphon.storage.model import ArchiveQuery
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import parse_stamp, utc_ms_text

MOST_COUNTED = 1_000_000
"""Messages that are counted; an archive of more has no number."""

Account = Annotated[Jid, "bare JID of the account"]


class ArchiveLine(Struct, frozen=True):
    """What an archive holds; the times are in the form of XEP-0082, None for nothing. `messages` is
    None where counting them would be reading them."""

    messages: int | None
    first: str | None
    last: str | None


@command
async def archive_size(ctx: CommandContext, jid: Account) -> ArchiveLine:
    """Tells how many messages the archive of an account holds, and from when."""
    account = await _account(ctx, jid)
    ends = await ctx.store.archive.ends(account)
    if ends is None:
        return ArchiveLine(0, None, None)
    count = await ctx.store.archive.count(account, ArchiveQuery(), MOST_COUNTED)
    return ArchiveLine(count, utc_ms_text(ends.first.at), utc_ms_text(ends.last.at))


@command
async def purge_archive(
    ctx: CommandContext,
    jid: Account,
    peer: Annotated[Jid | None, "bare JID of one conversation; left out: all"] = None,
    before: Annotated[
        str | None, "only what is older, like 2026-01-31T00:00:00Z; left out: all"
    ] = None,
) -> None:
    """Deletes messages from the archive of an account, for good and not from its peers'."""
    account = await _account(ctx, jid)
    moment = None if before is None else _moment(before)
    await ctx.store.archive.purge(account, None if peer is None else peer.bare, moment)


async def _account(ctx: CommandContext, jid: Jid) -> Jid:
    account = ctx.account(jid)
    if await ctx.store.accounts.state(account) is None:
        raise CommandError("item-not-found", f"there is no account {account}")
    return account


def _moment(text: str) -> datetime:
    try:
        return parse_stamp(text)
    except ValueError as err:
        raise CommandError("bad-request", f'before: "{text}" is {err}') from err
