# SPDX-License-Identifier: Apache-2.0
"""The admin socket's frames: one JSON object a line, answers matched to requests by id."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from antiphon.commands import CommandError
from antiphon.xmpp.errors import Condition

NAME = "admin.sock"
LINE_BYTES = 16 * 1024 * 1024
"""Longest line either way; a listing of 1,000 accounts takes 0.1 MB."""
_LONGEST_ADDRESS = 100
"""The kernel takes 107 bytes for the path of a socket."""


class Request(Struct, frozen=True, kw_only=True):
    """`{"id": 1, "command": "create_account", "arguments": {"jid": ...}}`"""

    id: int
    command: str
    arguments: dict[str, object] = {}


class Response(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`{"id": 1, "result": ...}`, or `{"id": 1, "condition": "conflict", "text": "..."}`."""

    id: int
    result: object = None
    condition: Condition | None = None
    text: str = ""


class Runner(Protocol):
    """Runs commands: on a running node through its socket, or on the data of a stopped one."""

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """The result in JSON's types. Raises CommandError."""


class Unreachable(Exception):
    """Nobody listens at the admin socket."""


@contextlib.contextmanager
def address(path: Path) -> Iterator[str]:
    """A text for `bind` and `connect`; a long path goes by a descriptor of its folder."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= _LONGEST_ADDRESS:
        yield text
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Client:
    """A connection to a node's admin socket; many commands may be under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: Path) -> Client:
        """Raises Unreachable if no node listens there."""
        try:
            with address(path) as text:
                reader, writer = await asyncio.open_unix_connection(text, limit=LINE_BYTES)
        except PermissionError as error:
            raise CommandError(
                "forbidden", f"{path} belongs to another user; run this as the node's user"
            ) from error
        except OSError as error:
            raise Unreachable(str(path)) from error
        return cls(reader, writer)

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """See Runner."""
        self._next += 1
        request = Request(id=self._next, command=command, arguments=dict(arguments))
        waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if self._task.done():
            raise _gone()
        self._waiting[request.id] = waiting
        self._writer.write(msgspec.json.encode(request) + b"\n")
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise _gone() from error
        response = await waiting
        if response.condition is not None:
            raise CommandError(response.condition, response.text)
        return response.result

    async def close(self) -> None:
        """Ends the connection."""
        self._task.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await self._task
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                response = msgspec.json.decode(line, type=Response)
                waiting = self._waiting.pop(response.id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(response)
        except (ConnectionError, ValueError, msgspec.MsgspecError):
            pass  # the same as an end: whoever waits is told
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_gone())
            self._waiting.clear()


def _gone() -> CommandError:
    return CommandError("service-unavailable", "the node closed its admin socket; try again")
