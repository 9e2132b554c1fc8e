# SPDX-License-Identifier: Apache-2.0
"""Many accounts at once from CSV lines."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from antiphon.admin.protocol import Runner
from antiphon.xmpp.errors import StanzaError

AT_ONCE = 64
"""Commands under way; deriving keys takes the processor, more would only wait."""

KEY_COLUMNS = ("hash", "iterations", "salt", "stored_key", "server_key")


@dataclass
class Imported:
    """How it went."""

    good: int = 0
    bad: int = 0


class BadLine(Exception):
    """A line that is no account; the message says what is wrong with it."""


async def import_accounts(
    to: Runner, lines: Iterable[str], complain: Callable[[int, str], None]
) -> Imported:
    """Runs a command for each line; `complain` is told number (from 1) and fault of a bad one.

    Later lines of the same account win. Raises StanzaError when the node itself goes away.
    """
    done = Imported()
    room = asyncio.Semaphore(AT_ONCE)
    last: dict[str, asyncio.Task[None]] = {}

    async def one(number: int, command: str, arguments: dict[str, object]) -> None:
        try:
            await to.run(command, arguments)
            done.good += 1
        except StanzaError as error:
            done.bad += 1
            complain(number, error.text or error.condition)
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        reader = csv.reader(lines, strict=True)
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                done.bad += 1
                complain(reader.line_num, f"not CSV: {error}")
                continue
            if row is None:
                break
            if is_nothing(row, reader.line_num):
                continue
            try:
                command, arguments = parse(row)
            except BadLine as error:
                done.bad += 1
                complain(reader.line_num, str(error))
                continue
            jid = str(arguments["jid"])
            if (earlier := last.get(jid)) is not None:
                await earlier
            await room.acquire()
            task = group.create_task(one(reader.line_num, command, arguments))
            last[jid] = task
            task.add_done_callback(lambda _task, jid=jid: last.pop(jid, None))  # type: ignore[misc]
    return done


def is_nothing(row: list[str], number: int) -> bool:
    """An empty line, a comment, or the names of the columns."""
    if not row or row == [""] or row[0].startswith("#"):
        return True
    return number == 1 and row[0].strip().lower() == "jid"


def parse(row: list[str]) -> tuple[str, dict[str, object]]:
    """(command, its arguments) of a line. Raises BadLine."""
    jid = row[0].strip()
    if not jid:
        raise BadLine("the JID is missing")
    rest = row[1:]
    while len(rest) > 1 and not rest[-1]:
        rest.pop()
    if len(rest) == 1 and rest[0]:
        return "put_account", {"jid": jid, "password": rest[0]}
    if len(rest) == 1 + len(KEY_COLUMNS):
        if rest[0]:
            raise BadLine(f"{jid} has both a password and keys; keep one")
        arguments: dict[str, object] = dict(zip(KEY_COLUMNS, rest[1:], strict=True))
        if not rest[2].isascii() or not rest[2].isdigit():
            raise BadLine(f'iterations "{rest[2]}" is not a number')
        arguments["iterations"] = int(rest[2])
        arguments["hash"] = rest[1].strip().lower().removeprefix("scram-")
        return "put_account_keys", {"jid": jid, **arguments}
    if not any(rest):
        raise BadLine(f"{jid} has neither a password nor keys")
    raise BadLine(f"{len(row)} columns; there are 2 with a password and 7 with keys")
