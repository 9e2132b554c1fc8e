# SPDX-License-Identifier: Apache-2.0
"""The proxy of the wire tests: it tears, delays and merges, and changes no byte."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.proxy import Proxy, Weather, pieces

HOST = "127.0.0.1"


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_same_bytes_in_the_same_order(seed: int) -> None:
    octets = random.Random(seed).randbytes(seed * 3_000)
    torn = list(pieces(octets, random.Random(seed)))
    assert b"".join(torn) == octets
    assert all(torn)
    assert torn == list(pieces(octets, random.Random(seed)))


def test_a_short_text_is_torn_into_single_bytes_by_some_seeds() -> None:
    torn = [list(pieces(b"<message/>", random.Random(seed))) for seed in range(50)]
    assert {1, 2} <= {min(map(len, parts)) for parts in torn}
    assert len(max(torn, key=len)) > 3


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy(1, Weather(tiny=0.9, delayed=0.5, delay_s=0.001, held=0.5))
    yield made
    made.stop()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[int]:
    """A port that sends back what it gets and resets who says `cut`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while octets := await reader.read(10_000):
                if octets == b"cut":
                    writer.transport.abort()
                    return
                writer.write(octets)
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_what_goes_through_comes_back_whole(proxy: Proxy, echo: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, proxy.front(HOST, echo))
    octets = random.Random(5).randbytes(100_000)
    writer.write(octets)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == octets
    writer.close()


async def test_a_cut_is_passed_on(proxy: Proxy, echo: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, proxy.front(HOST, echo))
    writer.write(b"cut")
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(10), 5):
            pass
    writer.close()


async def test_a_port_that_nobody_serves_is_a_cut(proxy: Proxy) -> None:
    server = await asyncio.start_server(lambda *_: None, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    reader, writer = await asyncio.open_connection(HOST, proxy.front(HOST, port))
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(10), 5) == b""
    writer.close()
