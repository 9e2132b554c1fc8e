# SPDX-License-Identifier: Apache-2.0
"""What a message costs in system calls, counted by strace: never timed.

"At most 2.1 at 1,000 a second" can be read in three ways, and each has its test:

- 100 clients that all write within the same tenth of a second: 2.1.
- 100 clients, ten of whom write in each tick of 10 ms, one after another: 2.1.
- One message each millisecond, evenly spaced: 3.1. A node that sleeps between two messages needs
  three calls for one: the wait that ends, the read and the write. Fewer would need a read that is
  tried before it is announced, which fails and costs a call itself, or a wait put off until more
  has come, which is latency.

Where several arrive in one wait, the wait is shared. At saturation a message costs less than one.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support.client import Client
from support.play import Clients
from support.server import Server

pytestmark = [
    pytest.mark.ours("system calls of our process"),
    # What an archive writes is the store's, and shared by many messages.
    pytest.mark.settings(
        node={"worker_threads": 1}, auth={"allow_plaintext": True}, archive={"enabled": False}
    ),
]

ATTACH_S = 10.0
READ, WRITE, WAIT = "recvfrom", "sendto", "epoll_wait"


@asynccontextmanager
async def counted(server: Server, folder: Path) -> AsyncIterator[Counter[str]]:
    """Counts the calls of all the node's threads within; they are there once it is left."""
    if shutil.which("strace") is None:
        pytest.fail("strace is missing: `make deps` installs it (as root)")
    assert server.process is not None
    table = folder / "calls.txt"
    tracer = await asyncio.create_subprocess_exec(
        "strace", "-f", "-c", "-U", "name,calls", "-o", str(table), "-p", str(server.process.pid),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    calls: Counter[str] = Counter()
    try:
        assert tracer.stderr is not None
        said = await asyncio.wait_for(tracer.stderr.readline(), ATTACH_S)
        if b"attached" not in said:
            why = (said + await tracer.stderr.read()).decode().strip()
            pytest.fail(f"the node cannot be traced here: {why}")
        yield calls
    finally:
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)
        await asyncio.wait_for(tracer.communicate(), ATTACH_S)
    for line in table.read_text().splitlines():
        match line.split():
            case [name, number] if number.isdigit() and name != "total":
                calls[name] += int(number)


async def pairs(clients: Clients, count: int) -> list[Client]:
    """Clients that each know the other of a pair: 0 and 1, 2 and 3, ..."""
    made = [await clients.online(kind="plain") for _ in range(2 * count)]
    for one in made:
        await one.sync()
        one.drain()
    return made


def text_to(client: Client, number: int) -> str:
    """One chat message of the size that benchmarks use."""
    return (
        f"<message to='{client.jid}' type='chat' id='n{number}'><body>{'x' * 100}</body></message>"
    )


async def arrived(client: Client, count: int) -> None:
    """Takes so many messages, and no more."""
    left = count
    while left > 0:
        await client.wait_for(lambda: bool(client.inbox), 30, "message")
        left -= sum(element.name == "message" for element in client.drain())
        client.log.clear()
    assert left == 0


def told(calls: Counter[str], count: int) -> str:
    """The counts, for a failed assertion."""
    return ", ".join(f"{name} {calls[name] / count:.3f}" for name, _ in calls.most_common(8))


async def test_messages_spaced_evenly_cost_a_wait_a_read_and_a_write(
    clients: Clients, server: Server, tmp_path: Path
) -> None:
    count, spacing_s = 2_000, 0.001
    made = await pairs(clients, 5)
    async with counted(server, tmp_path) as calls:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for i in range(count):
            await asyncio.sleep(max(0.0, begin + i * spacing_s - loop.time()))
            sender, receiver = i % 10, i % 10 ^ 1
            made[sender].send_raw(text_to(made[receiver], i))
        await asyncio.gather(*(arrived(one, count // 10) for one in made))
    assert calls[READ] <= count * 1.02, told(calls, count)
    assert calls[WRITE] <= count * 1.02, told(calls, count)
    # The node's own ticks, and what its Python half does meanwhile.
    others = calls.total() - calls[READ] - calls[WRITE] - calls[WAIT]
    assert others <= count * 0.1, told(calls, count)
    assert calls.total() <= count * 3.1, told(calls, count)


@pytest.mark.parametrize("tick_s", [0.1, 0.01])
async def test_a_thousand_messages_a_second_of_many_clients_cost_two_calls_each(
    clients: Clients, server: Server, tmp_path: Path, tick_s: float
) -> None:
    rounds = 20
    made = await pairs(clients, 50)
    count = rounds * len(made)
    texts = [text_to(made[i ^ 1], i) for i in range(len(made))]
    at_once = round(1_000 * tick_s)
    async with counted(server, tmp_path) as calls:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for i in range(count):
            if i % at_once == 0:
                await asyncio.sleep(max(0.0, begin + i / 1_000 - loop.time()))
            made[i % len(made)].send_raw(texts[i % len(made)])
        await asyncio.gather(*(arrived(one, rounds) for one in made))
    assert calls.total() <= count * 2.1, told(calls, count)


async def test_messages_at_saturation_cost_less_than_one_call_each(
    clients: Clients, server: Server, tmp_path: Path
) -> None:
    rounds, at_once = 10, 40
    made = await pairs(clients, 5)
    count = rounds * at_once * len(made)
    texts = [text_to(made[i ^ 1], i) * at_once for i in range(len(made))]
    async with counted(server, tmp_path) as calls:
        for _ in range(rounds):
            for sender, text in zip(made, texts, strict=True):
                sender.send_raw(text)
            await asyncio.gather(*(arrived(one, at_once) for one in made))
    assert calls.total() < count, told(calls, count)


async def test_idle_sessions_make_no_calls(
    clients: Clients, server: Server, tmp_path: Path
) -> None:
    made = await pairs(clients, 50)
    async with counted(server, tmp_path) as calls:
        await asyncio.sleep(3)
    # A tick of the node each half second; a timer for each session would show a hundred times.
    assert calls.total() < len(made), told(calls, len(made))
