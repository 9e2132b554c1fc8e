# SPDX-License-Identifier: Apache-2.0
"""Those who must not notice what others run into."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .client import Client
from .play import Clients
from .xml import message


async def chat(a: Client, b: Client) -> None:
    """A message there and back."""
    for one, other in ((a, b), (b, a)):
        one.send(message(other.jid, "still here", type="chat"))
        assert (await other.expect("message", type="chat")).body == "still here"


@asynccontextmanager
async def talking(clients: Clients) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients who must be able to talk before and after."""
    pair = await clients.online(), await clients.online()
    await chat(*pair)
    yield pair
    await chat(*pair)


async def refused(client: Client, condition: str) -> Client:
    """The client's stream ends with that error, and its connection too."""
    await client.expect_stream_error(condition)
    await client.expect_eof()
    return client
