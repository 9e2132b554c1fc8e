# SPDX-License-Identifier: Apache-2.0
"""The admin socket: every command of `antiphon.commands` for whoever may open the file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from antiphon.admin.protocol import LINE_BYTES, Request, Response, address
from antiphon.commands import Command, CommandContext, registry
from antiphon.metrics.export import Meters
from antiphon.metrics.names import ADMIN_COMMANDS
from antiphon.xmpp.errors import StanzaError

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
MOST_UNDER_WAY = 64
"""Commands of one connection; then its lines are not read."""


class SocketTaken(Exception):
    """Another node answers at this path."""


class CommandRunner:
    """Runs commands in this process; what the socket serves, and what the offline mode calls."""

    def __init__(
        self,
        context: Callable[[], CommandContext],
        meters: Meters | None = None,
        commands: Mapping[str, Command] | None = None,
    ) -> None:
        self._context = context
        self._meters = meters
        self._commands = registry() if commands is None else commands

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """The result in JSON's types. Raises StanzaError; CommandError has a line for people."""
        known = self._commands.get(command)
        if known is None:
            raise StanzaError("feature-not-implemented", f"there is no command {command}")
        result = "internal-server-error"
        try:
            answer = await known.run(self._context(), arguments)
            result = "ok"
        except StanzaError as error:
            result = error.condition
            raise
        finally:
            if self._meters is not None:
                self._meters.count(ADMIN_COMMANDS, command, result)
        return msgspec.to_builtins(answer)


class AdminSocket:
    """Listens at a path, mode 0600, until closed."""

    def __init__(self, path: Path, runner: CommandRunner) -> None:
        self._path = path
        self._runner = runner
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises SocketTaken, or OSError if the folder does not allow a socket."""
        self._server = await asyncio.start_unix_server(
            self._accept, sock=self._bound(), limit=LINE_BYTES
        )

    async def close(self) -> None:
        """Ends every connection and removes the file."""
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _bound(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address(self._path) as text:
                self._clear(text)
                listener.bind(text)
                # No mask is touched: until `listen` below nobody can connect.
                Path(text).chmod(0o600)
            listener.listen(MOST_CONNECTIONS)
        except BaseException:
            listener.close()
            raise
        return listener

    def _clear(self, text: str) -> None:
        """Removes what a node that was killed left behind."""
        if not self._path.exists():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(text)
            except ConnectionRefusedError:
                self._path.unlink(missing_ok=True)
                return
            except FileNotFoundError:
                return
        raise SocketTaken(str(self._path))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the peer went, or the node stops
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        room = asyncio.Semaphore(MOST_UNDER_WAY)
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:
                    await _write(writer, Response(id=0, condition="bad-request", text="too long"))
                    return
                if not line:
                    return
                try:
                    request = msgspec.json.decode(line, type=Request)
                except msgspec.MsgspecError as error:
                    refused = Response(id=0, condition="bad-request", text=str(error))
                    await _write(writer, refused)
                    continue
                await room.acquire()
                group.create_task(self._one(request, writer, room))

    async def _one(
        self, request: Request, writer: asyncio.StreamWriter, room: asyncio.Semaphore
    ) -> None:
        try:
            result = await self._runner.run(request.command, request.arguments)
            response = Response(id=request.id, result=result)
        except StanzaError as error:
            text = error.text or error.condition
            response = Response(id=request.id, condition=error.condition, text=text)
        except Exception:
            log.exception("admin command failed", extra={"command": request.command})
            response = Response(
                id=request.id,
                condition="internal-server-error",
                text=f"{request.command} failed; the node's log says why",
            )
        finally:
            room.release()
        with contextlib.suppress(ConnectionError):
            await _write(writer, response)


async def _write(writer: asyncio.StreamWriter, response: Response) -> None:
    writer.write(msgspec.json.encode(response) + b"\n")
    await writer.drain()
