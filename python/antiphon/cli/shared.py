# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: options, loading, and the way to the administrative commands."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from antiphon.admin.protocol import NAME, Client, Runner, Unreachable
from antiphon.cli.failure import Failure
from antiphon.cli.looking import member_runner
from antiphon.config.environment import CONFIG_FILE
from antiphon.config.load import Loaded
from antiphon.config.load import load as load_config
from antiphon.config.schema import Log
from antiphon.node import log as node_log
from antiphon.node.app import offline
from antiphon.xep._registry import registry

T = TypeVar("T")

__all__ = [
    "Failure", "ask_password", "checked_password", "config_option", "json_option", "load",
    "password_line", "run", "runner", "show",
]  # fmt: skip

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar=CONFIG_FILE,
    help="Configuration; default: antiphon.toml in the working directory, if there is one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def load(config_file: str | None) -> Loaded:
    """The configuration. Raises ConfigProblems."""
    return load_config(config_file, registry().configs(), os.environ)


def run(config_file: str | None, work: Callable[[Runner], Awaitable[T]]) -> T:
    """Does some work with administrative commands, on the running node or on a stopped one."""
    loaded = load(config_file)
    node_log.configure(Log(level="error", format="text"))

    async def inner() -> T:
        async with runner(loaded) as found:
            return await work(found)

    return asyncio.run(inner())


@contextlib.asynccontextmanager
async def runner(loaded: Loaded) -> AsyncIterator[Runner]:
    """The running node's commands by its socket; on a stopped node's data in this process.

    In a cluster the data belong to the nodes that run, so a member is asked where there is one.
    """
    try:
        client = await Client.connect(Path(loaded.config.data_dir) / NAME)
    except Unreachable:
        if loaded.config.is_clustered:
            async with member_runner(loaded.config) as member:
                if member is not None:
                    yield member
                    return
        async with offline(loaded.config) as local:
            yield local
        return
    try:
        yield client
    finally:
        await client.close()


def show(as_json: bool, document: object, text: str) -> None:
    """Prints one of the two; nothing for an empty text."""
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
    elif text:
        click.echo(text)


def ask_password(jid: str) -> str:
    """A password from the terminal, asked twice; a line of standard input where there is none."""
    if not sys.stdin.isatty():
        return password_line()
    first = getpass.getpass(f"Password for {jid}: ")
    if getpass.getpass("Again: ") != first:
        raise Failure("the two passwords differ; nothing was changed")
    return checked_password(first)


def password_line() -> str:
    """The first line of standard input."""
    return checked_password(sys.stdin.readline().rstrip("\r\n"))


def checked_password(password: str) -> str:
    """The password if it can be one at all; the core prepares it (RFC 8265)."""
    if not password:
        raise Failure("the password is empty; nothing was changed")
    return password
