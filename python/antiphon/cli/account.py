# SPDX-License-Identifier: Apache-2.0
"""`antiphon account`: accounts on a running node or on a stopped one."""

from __future__ import annotations

from typing import TextIO, TypedDict, cast

import click

from antiphon.admin.protocol import Runner
from antiphon.cli.importing import Imported, import_accounts
from antiphon.cli.shared import (
    Failure,
    ask_password,
    checked_password,
    config_option,
    json_option,
    password_line,
    run,
    show,
)

PAGE = 1_000


class Line(TypedDict):
    """An account as the command `list_accounts` shows it."""

    jid: str
    is_enabled: bool
    created: str


@click.group()
def account() -> None:
    """Create, list, change and remove accounts."""


password_option = click.option(
    "--password", metavar="P", help="Seen by other users of the machine."
)
stdin_option = click.option("--password-stdin", is_flag=True, help="Read it from standard input.")


@account.command()
@click.argument("jid")
@password_option
@stdin_option
@config_option
@json_option
def create(
    jid: str,
    password: str | None,
    password_stdin: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Create the account JID; asks for a password if none is given."""
    secret = _password(jid, password, is_stdin=password_stdin)
    run(config_file, lambda to: to.run("create_account", {"jid": jid, "password": secret}))
    show(as_json, {"created": jid}, f"created {jid}")


@account.command()
@click.argument("jid")
@password_option
@stdin_option
@config_option
@json_option
def password(
    jid: str,
    password: str | None,
    password_stdin: bool,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Change the password of JID."""
    secret = _password(jid, password, is_stdin=password_stdin)
    run(config_file, lambda to: to.run("change_password", {"jid": jid, "password": secret}))
    show(as_json, {"changed": jid}, f"changed the password of {jid}")


@account.command()
@click.argument("jid")
@config_option
@json_option
def delete(jid: str, config_file: str | None, as_json: bool) -> None:
    """Remove the account JID with all its data."""
    run(config_file, lambda to: to.run("delete_account", {"jid": jid}))
    show(as_json, {"deleted": jid}, f"deleted {jid}")


@account.command()
@click.argument("jid")
@config_option
@json_option
def disable(jid: str, config_file: str | None, as_json: bool) -> None:
    """Stop JID from logging in; nothing is removed."""
    run(config_file, lambda to: to.run("disable_account", {"jid": jid}))
    show(as_json, {"disabled": jid}, f"disabled {jid}")


@account.command()
@click.argument("jid")
@config_option
@json_option
def enable(jid: str, config_file: str | None, as_json: bool) -> None:
    """Let JID log in again."""
    run(config_file, lambda to: to.run("enable_account", {"jid": jid}))
    show(as_json, {"enabled": jid}, f"enabled {jid}")


@account.command("list")
@click.argument("domain")
@config_option
@json_option
def list_(domain: str, config_file: str | None, as_json: bool) -> None:
    """List the accounts of DOMAIN."""
    accounts = run(config_file, lambda to: _all(to, domain))
    lines = [one["jid"] if one["is_enabled"] else f"{one['jid']}\tdisabled" for one in accounts]
    show(as_json, accounts, "\n".join(lines))


@account.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@config_option
@json_option
def import_(file: TextIO, config_file: str | None, as_json: bool) -> int:
    """Create or update accounts from the CSV lines of FILE (-: standard input).

    A line is `jid,password`, or with the SCRAM keys of another server
    `jid,,sha-256,iterations,salt,stored key,server key`, the last three in base64. A bad line is
    named and stops nothing; then the exit code is 1.
    """
    done: Imported = run(config_file, lambda to: import_accounts(to, file, _complain))
    show(
        as_json,
        {"imported": done.good, "failed": done.bad},
        f"imported {done.good}, failed {done.bad}",
    )
    return 1 if done.bad else 0


def _complain(number: int, text: str) -> None:
    click.echo(f"line {number}: {text}", err=True)


def _password(jid: str, given: str | None, *, is_stdin: bool) -> str:
    if given is not None and is_stdin:
        raise click.UsageError("--password and --password-stdin exclude each other")
    if given is not None:
        return checked_password(given)
    if "@" not in jid:
        raise Failure(f"{jid} is not an account; write name@{jid or 'domain'}")
    return password_line() if is_stdin else ask_password(jid)


async def _all(to: Runner, domain: str) -> list[Line]:
    found: list[Line] = []
    while True:
        arguments: dict[str, object] = {"domain": domain, "limit": PAGE}
        if found:
            arguments["after"] = found[-1]["jid"].rpartition("@")[0]
        page = cast("list[Line]", await to.run("list_accounts", arguments))
        found += page
        if len(page) < PAGE:
            return found
