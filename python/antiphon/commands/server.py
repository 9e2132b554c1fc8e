# SPDX-License-Identifier: Apache-2.0
"""Commands on the node and its hosts."""

import secrets
from typing import Annotated

from antiphon.commands._registry import CommandContext, CommandError, command
from antiphon.commands.sessions import sessions_of
from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import E, Element, Stanza

LONGEST_DELAY_S = 86_400


@command
async def statistics(ctx: CommandContext) -> dict[str, int]:
    """Gives the node's counters by name."""
    ctx.everything()
    return await ctx.store.node.stats()


@command
async def announce(
    ctx: CommandContext,
    domain: Annotated[str, "a served domain"],
    text: Annotated[str, "what to say"],
    subject: Annotated[str | None, "a heading"] = None,
) -> int:
    """Sends a message from a domain to each of its sessions; the number of those."""
    host = ctx.host(domain)
    if not text.strip():
        raise CommandError("bad-request", "there is nothing to announce")
    body = [E("subject", ns.CLIENT, subject)] if subject else []
    body.append(E("body", ns.CLIENT, text))
    sent = 0
    async for page in sessions_of(ctx, domain):
        for jid in page:
            # A headline: not kept for who has just left (RFC 6121 §8.5.3.2.1), not in history.
            host.send(
                Stanza(
                    "message",
                    type="headline",
                    id=secrets.token_hex(8),
                    frm=host.host.jid,
                    to=jid,
                    children=body,
                )
            )
        sent += len(page)
    return sent


@command
async def shut_down(
    ctx: CommandContext,
    delay_s: Annotated[int, "seconds until then, 0 to 86,400"] = 0,
    announcement: Annotated[str | None, "what to tell every session at once"] = None,
) -> None:
    """Stops the node gracefully: no new connections, sessions told, everything committed."""
    ctx.everything()
    if ctx.shut_down is None:
        raise CommandError("not-allowed", "this node is not stopped this way")
    if not 0 <= delay_s <= LONGEST_DELAY_S:
        raise CommandError("bad-request", f"delay_s is 0 to {LONGEST_DELAY_S}")
    if announcement:
        for domain in ctx.hosts:
            await announce(ctx, domain, announcement)
    ctx.shut_down(float(delay_s))


async def user_roster(ctx: CommandContext, jid: Jid) -> Element:
    """The roster of an account as `<query/>`, empty where it has no items."""
    account = ctx.account(jid)
    if await ctx.store.accounts.state(account) is None:
        raise CommandError("item-not-found", f"there is no account {account}")
    return await ctx.store.roster.get(account, None, None) or E("query", ns.ROSTER)
