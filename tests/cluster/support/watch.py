# SPDX-License-Identifier: Apache-2.0
"""Those who look on: pollers of archives, witnesses of presence, pairs that probe a way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from durability import wire_reader
from durability.crowd import BROKEN
from support.client import Client
from support.endpoint import Account, Endpoint
from support.xml import presence

from .records import Poll

PAGE = 40
BEAT_S = 0.2


@dataclass
class _Poller:
    """One device that asks its archive again and again for what came behind the last id."""

    account: Account
    number: int
    doors: Callable[[int], Endpoint]
    ids: list[str] = field(default_factory=list)
    is_at_end: bool = False
    choice: int = 0
    client: wire_reader.Quiet | None = None
    is_stopping: bool = False
    refused: int = 0
    trouble: str = ""
    """What went wrong last."""

    async def run(self) -> None:
        """Until stopped; every failure is another node's turn."""
        while not self.is_stopping:
            try:
                await self._page()
            except BROKEN as error:
                self.trouble = repr(error)
                self.leave()
                self.choice += 1
                self.refused += 1
            await asyncio.sleep(BEAT_S if self.is_at_end else 0.01)

    async def _page(self) -> None:
        if self.client is None:
            client = wire_reader.Quiet(self.doors(self.choice), self.account)
            self.client = client
            await asyncio.wait_for(self._enter(client), 10)
        last = self.ids[-1] if self.ids else None
        results, self.is_at_end = await wire_reader.page_after(self.client, last, PAGE)
        self.ids += [result.get("id") or "" for result in results]

    @staticmethod
    async def _enter(client: Client) -> None:
        await client.negotiate()
        await client.authenticate("PLAIN")
        await client.bind("poller")

    def leave(self) -> None:
        """Cuts the line."""
        if self.client is not None:
            self.client.abort()
            self.client = None


class Pollers:
    """Some users' second devices, each on another node than the one before."""

    def __init__(self, accounts: Sequence[Account], doors: Callable[[int], Endpoint]) -> None:
        self._pollers = [_Poller(a, n, doors, choice=n + 1) for n, a in enumerate(accounts)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Returns at once."""
        self._tasks = [asyncio.create_task(poller.run()) for poller in self._pollers]

    async def finish(self, timeout_s: float = 30.0) -> list[Poll]:
        """What each was given, once it has come to the end of its archive; stops them."""
        for poller in self._pollers:
            poller.is_at_end = False
        deadline = time.monotonic() + timeout_s
        while not all(p.is_at_end for p in self._pollers) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await self.stop()
        for poller, task in zip(self._pollers, self._tasks, strict=True):
            if not poller.is_at_end:
                print(f"not at its end: {poller}; {task}")
        return [Poll(p.number, tuple(p.ids), p.is_at_end) for p in self._pollers]

    async def stop(self) -> None:
        """Ends them."""
        for poller in self._pollers:
            poller.is_stopping = True
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 10)
        for task in self._tasks:
            task.cancel()
        for poller in self._pollers:
            poller.leave()


async def befriend(a: Client, b: Client) -> None:
    """Subscribes two available clients to each other's presence, both ways (RFC 6121 §3)."""
    for asker, asked in ((a, b), (b, a)):
        asker.send(presence(type="subscribe", to=asked.bare))
        await asked.expect("presence", type="subscribe", from_=asker.bare)
        asked.send(presence(type="subscribed", to=asker.bare))
        await asker.expect("presence", type="subscribed", from_=asked.bare)
        await asker.expect("presence", type=None, from_=asked.jid)
    for one in (a, b):
        await one.sync()
    for one in (a, b):
        one.drain()


def seen_of(witness: Client, jid: str) -> list[str | None]:
    """Types of presence that came from a full JID so far; they stay where they are."""
    return [e.type for e in witness.inbox if e.name == "presence" and e.frm == jid]


async def told(witness: Client, jid: str, kind: str | None, within_s: float) -> None:
    """Waits until presence of a type (`None`: available) has come from a full JID."""
    what = f"{kind or 'available'} presence of {jid}"
    await witness.wait_for(lambda: kind in seen_of(witness, jid), within_s, what)
