# SPDX-License-Identifier: Apache-2.0
"""A man in the middle that splits, merges and delays bytes, the same way for the same seed.

What TCP may do to a stream it does here all the time: pieces of one byte, two stanzas in one
piece, a character torn apart, a pause between. `--proxy SEED` puts it before every port of the
server under test. Inside TLS the tearing is done before the encryption (`pieces`), since a proxy
can only tear records.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

READ_BYTES = 65_536
HELD_BYTES = 262_144
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Weather:
    """How bad the line is."""

    tiny: float = 0.3
    """Share of bursts that begin with pieces of 1 to 7 bytes."""
    tiny_pieces: int = 12
    """At most so many of them in a burst, so that a large stanza is not a matter of minutes."""
    delayed: float = 0.1
    """Share of pieces that wait."""
    delay_s: float = 0.002
    """The longest wait."""
    held: float = 0.1
    """Share of bursts that wait for a following one, to be merged with it."""


def pieces(octets: bytes, dice: random.Random, weather: Weather = Weather()) -> Iterator[bytes]:
    """The same bytes torn at places that the dice choose; never an empty piece."""
    at = 0
    if dice.random() < weather.tiny:
        for _ in range(dice.randint(1, weather.tiny_pieces)):
            size = dice.randint(1, 7)
            if at < len(octets):
                yield octets[at : at + size]
                at += size
    while at < len(octets):
        size = dice.choice((37, 255, 1_400, 4_096, 16_385, READ_BYTES))
        yield octets[at : at + size]
        at += size


class Proxy:
    """Proxies of any number of ports, in a thread of their own.

    A connection's pieces depend on the seed and on how many connections came before it. An end
    in one direction ends that direction; a reset is passed on as a reset.
    """

    def __init__(self, seed: int, weather: Weather = Weather()) -> None:
        self.seed, self.weather = seed, weather
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def front(self, address: str, port: int) -> int:
        """The port, on the same address, that leads to that one through bad weather."""
        asked: Future[int] = asyncio.run_coroutine_threadsafe(
            self._listen(address, port), self._loop
        )
        return asked.result(10)

    def stop(self) -> None:
        """Cuts all connections and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, address: str, port: int) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._carry(reader, writer, (address, port))
            finally:
                self._tasks.discard(task)

        server = await asyncio.start_server(accept, address, 0, limit=HELD_BYTES)
        self._servers.append(server)
        chosen: int = server.sockets[0].getsockname()[1]
        return chosen

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int]
    ) -> None:
        self.connections += 1
        dice = random.Random(self.seed * 1_000_003 + self.connections)
        try:
            there, onward = await asyncio.open_connection(*target, limit=HELD_BYTES)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, onward):
            _at_once(end)
        ways = [
            asyncio.create_task(self._pump(reader, onward, random.Random(dice.random()))),
            asyncio.create_task(self._pump(there, writer, random.Random(dice.random()))),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            is_reset = any(way.exception() is not None for way in done)
        except asyncio.CancelledError:
            is_reset = True
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, onward):
            if is_reset:
                _reset(end)
            end.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dice: random.Random
    ) -> None:
        weather = self.weather
        while burst := await reader.read(READ_BYTES):
            if dice.random() < weather.held:
                with suppress(TimeoutError):
                    burst += await asyncio.wait_for(reader.read(READ_BYTES), weather.delay_s)
            for piece in pieces(burst, dice, weather):
                writer.write(piece)
                await writer.drain()
                if dice.random() < weather.delayed:
                    await asyncio.sleep(dice.random() * weather.delay_s)
        if writer.can_write_eof():
            writer.write_eof()


def _at_once(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
