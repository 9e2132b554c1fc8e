# SPDX-License-Identifier: Apache-2.0
"""What the attack tests measure: the node's memory and processor time, and how others fare."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from . import ns
from .client import Client
from .play import Clients
from .server import Server
from .xml import message

TICKS = os.sysconf("SC_CLK_TCK")


def resident_kb(server: Server) -> int:
    """Memory of the node's process that is in RAM."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(row for row in status.splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1])


def cpu_s(server: Server) -> float:
    """Processor time that the node's process has used, user and system."""
    assert server.process is not None
    stat = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / TICKS


def metrics(server: Server) -> dict[str, float]:
    """The node's metrics, by name with labels."""
    url = f"http://{server.address}:{server.ports.http}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def until(test: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
    """Waits until `test()` holds."""
    deadline = time.monotonic() + timeout_s
    while not test():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.05)


async def settled_kb(server: Server, below: int, timeout_s: float = 20) -> int:
    """Waits until the memory is below that many KB; what it is then, or at the end."""
    deadline = time.monotonic() + timeout_s
    while (now := resident_kb(server)) >= below and time.monotonic() < deadline:
        await asyncio.sleep(0.25)
    return now


class Bystanders:
    """Two clients who write to each other all the while; `async with` runs them.

    At the end no message may be missing and none may have taken longer than `worst_s`, which is
    generous: the test's own process shares its processor with theirs.
    """

    def __init__(self, clients: Clients, *, every_s: float = 0.05, worst_s: float = 3.0) -> None:
        self._clients, self._every_s, self._worst_s = clients, every_s, worst_s
        self.times_s: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Bystanders:
        self.pair = (await self._clients.online(), await self._clients.online())
        await self.exchange()
        self._task = asyncio.create_task(self._run())
        return self

    async def exchange(self) -> None:
        """One message there and one back; the whole time is kept."""
        began = time.monotonic()
        a, b = self.pair
        for one, other in ((a, b), (b, a)):
            mark = one.send(message(other.jid, "still here", type="chat", id=one.next_id()))
            await other.expect("message", id=mark)
        self.times_s.append(time.monotonic() - began)

    async def _run(self) -> None:
        while not self._stopped.is_set():
            await self.exchange()
            await asyncio.sleep(self._every_s)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._stopped.set()
        if kind is not None:
            self._task.cancel()
            return
        await self._task
        await self.exchange()
        worst = max(self.times_s)
        assert worst < self._worst_s, f"others waited {worst:.1f} s for a message and its answer"


async def opened(client: Client) -> Client:
    """Connects and opens the stream, nothing more."""
    await client.connect()
    await client.open_stream()
    return client


def header(to: str, content: str = ns.CLIENT) -> str:
    """A stream header with the declarations of RFC 6120 §4.8.1."""
    return f"<stream:stream xmlns='{content}' xmlns:stream='{ns.STREAM}' to='{to}' version='1.0'>"
