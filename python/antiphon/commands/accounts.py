# SPDX-License-Identifier: Apache-2.0
"""Commands on accounts."""

import base64
import binascii
from typing import Annotated

from msgspec import Struct

from antiphon.commands._registry import CommandContext, CommandError, Secret, command
from antiphon.storage.model import AccountSummary, ScramKeys
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import utc_text

PAGE = 500
"""Accounts read at once where all of a domain's are looked at."""

HASHES = ("sha-1", "sha-256", "sha-512")

Account = Annotated[Jid, "bare JID of the account"]


class AccountLine(Struct, frozen=True):
    """An account in a listing; `created` is in the form of XEP-0082."""

    jid: str
    is_enabled: bool
    created: str


def _no_account(jid: Jid) -> CommandError:
    return CommandError("item-not-found", f"there is no account {jid}")


@command
async def create_account(
    ctx: CommandContext, jid: Account, password: Annotated[Secret, "its password"]
) -> None:
    """Creates an account. Refused with `conflict` if it exists."""
    account = ctx.account(jid)
    try:
        await ctx.store.accounts.create(account, password)
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def delete_account(ctx: CommandContext, jid: Account) -> None:
    """Removes an account with all its data, ends its sessions and subscriptions."""
    account = ctx.account(jid)
    try:
        await ctx.store.accounts.delete(account)
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def change_password(
    ctx: CommandContext, jid: Account, password: Annotated[Secret, "the new password"]
) -> None:
    """Changes the password of an account; its sessions stay."""
    account = ctx.account(jid)
    try:
        await ctx.store.accounts.set_password(account, password)
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def put_account(
    ctx: CommandContext, jid: Account, password: Annotated[Secret, "its password"]
) -> None:
    """Creates an account or changes the password of an existing one (import)."""
    account = ctx.account(jid)
    try:
        await ctx.store.accounts.put(account, password)
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def put_account_keys(  # noqa: PLR0913  the columns of the import format
    ctx: CommandContext,
    jid: Account,
    *,
    hash: Annotated[str, "sha-1, sha-256 or sha-512"],
    iterations: Annotated[int, "PBKDF2 iterations"],
    salt: Annotated[str, "base64"],
    stored_key: Annotated[Secret, "StoredKey of RFC 5802, base64"],
    server_key: Annotated[Secret, "ServerKey of RFC 5802, base64"],
) -> None:
    """Creates an account, or replaces its password, by SCRAM keys of another server (import)."""
    account = ctx.account(jid)
    if hash not in HASHES:
        raise CommandError("bad-request", f'"{hash}" is not one of {", ".join(HASHES)}')
    if not 0 < iterations <= 100_000_000:
        raise CommandError("bad-request", f"{iterations} iterations are out of range")
    size = {"sha-1": 20, "sha-256": 32, "sha-512": 64}[hash]
    stored, server = _base64("stored_key", stored_key), _base64("server_key", server_key)
    if len(stored) != size or len(server) != size:
        raise CommandError("bad-request", f"a key of {hash} has {size} bytes")
    keys = ScramKeys(hash, iterations, _base64("salt", salt), stored, server)
    try:
        await ctx.store.accounts.put_keys(account, [keys])
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def disable_account(ctx: CommandContext, jid: Account) -> None:
    """Stops an account from logging in and ends its sessions; nothing of it is removed."""
    await _enable(ctx, jid, is_enabled=False)
    await ctx.store.sessions.kick(jid.bare, None, "not-authorized")


@command
async def enable_account(ctx: CommandContext, jid: Account) -> None:
    """Lets a disabled account log in again."""
    await _enable(ctx, jid, is_enabled=True)


async def _enable(ctx: CommandContext, jid: Jid, *, is_enabled: bool) -> None:
    account = ctx.account(jid)
    try:
        await ctx.store.accounts.enable(account, is_enabled)
    except StanzaError as err:
        raise _explained(err, account) from err


@command
async def list_accounts(
    ctx: CommandContext,
    domain: Annotated[str, "a served domain"],
    after: Annotated[str | None, "localpart behind which to go on"] = None,
    limit: Annotated[int, "at most so many, 1 to 1,000"] = 1_000,
) -> list[AccountLine]:
    """Lists accounts of a domain in the order of their names."""
    host = ctx.host(domain)
    if not 1 <= limit <= 1_000:
        raise CommandError("bad-request", "limit is 1 to 1000")
    found = await ctx.store.accounts.list(host.host.domain, after, limit)
    return [AccountLine(str(one.jid), one.is_enabled, utc_text(one.created)) for one in found]


@command
async def count_accounts(ctx: CommandContext, domain: Annotated[str, "a served domain"]) -> int:
    """Counts the accounts of a domain."""
    return await ctx.store.accounts.count(ctx.host(domain).host.domain)


@command
async def account_is_enabled(ctx: CommandContext, jid: Account) -> bool:
    """Tells whether an account may log in. Refused with `item-not-found` without an account."""
    account = ctx.account(jid)
    state = await ctx.store.accounts.state(account)
    if state is None:
        raise _no_account(account)
    return state


async def disabled_accounts(ctx: CommandContext, domain: str, most: int | None) -> list[Jid]:
    """Accounts of a domain that may not log in, at most `most`; reads through all accounts."""
    host = ctx.host(domain)
    found: list[Jid] = []
    after: str | None = None
    while most is None or len(found) < most:
        page = await ctx.store.accounts.list(host.host.domain, after, PAGE)
        found += [one.jid for one in page if not one.is_enabled]
        if len(page) < PAGE:
            break
        after = page[-1].jid.local
    return found if most is None else found[:most]


async def registered_accounts(ctx: CommandContext, domain: str, most: int | None) -> list[Jid]:
    """Accounts of a domain, at most `most`."""
    host = ctx.host(domain)
    found: list[AccountSummary] = []
    while most is None or len(found) < most:
        after = found[-1].jid.local if found else None
        page = await ctx.store.accounts.list(host.host.domain, after, PAGE)
        found += page
        if len(page) < PAGE:
            break
    return [one.jid for one in (found if most is None else found[:most])]


def _explained(err: StanzaError, account: Jid) -> CommandError:
    """The store's refusal in words for the operator."""
    if err.condition == "item-not-found":
        return _no_account(account)
    if err.condition == "conflict":
        return CommandError("conflict", f"the account {account} exists already")
    return CommandError(err.condition, err.text or f"{account}: {err.condition}")


def _base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise CommandError("bad-request", f"{name} is not base64") from err
