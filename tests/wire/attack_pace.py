# SPDX-License-Identifier: Apache-2.0
"""Who sends too fast, does not read or never acknowledges: the limits of pace.

Case 25 of README.md. Each test configures a limit low, runs into it, and looks that others go on
and that nothing is lost that was worth keeping. The other limits are in limits.py.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support import ns
from support.bystanders import refused, talking
from support.client import Client
from support.component import Component
from support.hostile import metrics, resident_kb, until
from support.play import Clients
from support.server import Server
from support.transport import TcpTransport
from support.xml import message

pytestmark = pytest.mark.ours("the limits are ours")

RATES = {
    "stanzas_per_second": 100,
    "burst_stanzas": 10,
    "bytes_per_second": 20_000,
    "burst_bytes": 20_000,
}
OUTGOING = 200_000

rates = pytest.mark.settings(limits=RATES)
# A burst of them lasts; it is whole again after four seconds.
SLOW = {
    "stanzas_per_second": 20,
    "burst_stanzas": 80,
    "bytes_per_second": 20_000,
    "burst_bytes": 80_000,
}
WHOLE_AGAIN_S = 4.0
slow_rates = pytest.mark.settings(limits=SLOW)
slow_readers = pytest.mark.settings(limits={"outgoing_bytes": OUTGOING})
# With an archive, what finds no room elsewhere is kept there and does not come back.
acknowledgements = pytest.mark.settings(
    limits={"offline_messages": 3, "sm_queue_stanzas": 10, "sm_resume_seconds": 1},
    archive={"enabled": False},
)


@pytest_asyncio.fixture
async def bystanders(clients: Clients) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients who must be able to talk before and after."""
    async with talking(clients) as pair:
        yield pair


# -- stream management (XEP-0198) -----------------------------------------------------


@acknowledgements
@pytest.mark.parametrize("is_there", [True, False], ids=["connected", "lost"])
async def test_a_client_that_never_acknowledges_is_ended(
    clients: Clients, bystanders: tuple[Client, Client], is_there: bool
) -> None:
    romeo, _ = bystanders
    client = await clients.bound()
    await client.sm_enable()
    await client.online()
    if not is_there:
        client.abort()
        await client.expect_eof()
    for i in range(12):
        romeo.send(message(client.jid, f"n{i}", type="chat", id=f"n{i}"))
    await romeo.sync()
    if is_there:
        await refused(client, "resource-constraint")
    # three are kept (offline_messages), the others came back
    back = [await romeo.expect("message", type="error") for _ in range(12 - 3)]
    again = await clients.online(client)
    kept = [(await again.expect("message")).id for _ in range(3)]
    assert sorted([*kept, *(e.id for e in back)], key=lambda i: int(str(i)[1:])) == [
        f"n{i}" for i in range(12)
    ]


@acknowledgements
async def test_a_session_that_is_not_resumed_in_time_ends(clients: Clients, romeo: Client) -> None:
    # XEP-0198 #resumption
    client = await clients.bound()
    answer = await client.sm_enable()
    assert answer.get("max") == "1"
    await client.roster()
    await client.online()
    await clients.friends(romeo, client)
    client.abort()
    romeo.send(message(client.jid, "while away", type="chat"))
    await romeo.expect("presence", type="unavailable", from_=client.jid, timeout_s=10)
    new = await clients.authenticated(client.account)
    failed = await new.sm_resume(client)
    assert (failed.name, failed.condition) == ("failed", "item-not-found")
    await new.bind()
    await new.online()
    assert (await new.expect("message")).body == "while away"


# -- rates: who sends too fast is read more slowly, and nothing is lost -----------------


@rates
@pytest.mark.parametrize("kind", ["starttls", "wss"])
async def test_stanzas_beyond_the_rate_come_later_and_in_order(
    clients: Clients, bystanders: tuple[Client, Client], kind: str
) -> None:
    await asyncio.sleep(0.2)  # the bystanders' own burst fills up again
    client = await clients.bound(kind=kind)
    receiver = await clients.online()
    began = time.monotonic()
    for i in range(110):
        client.send(message(receiver.jid, id=f"n{i}"))
    ids = [(await receiver.expect("message", timeout_s=15)).id for _ in range(110)]
    assert ids == [f"n{i}" for i in range(110)]
    assert time.monotonic() - began > 0.8, "100 a second, 10 at once"
    await client.sync()


@rates
async def test_bytes_beyond_the_rate_come_later_and_in_order(
    clients: Clients, bystanders: tuple[Client, Client]
) -> None:
    client = await clients.bound()
    receiver = await clients.online()
    began = time.monotonic()
    for i in range(10):
        client.send(message(receiver.jid, "x" * 6_000, id=f"n{i}"))
    ids = [(await receiver.expect("message", timeout_s=15)).id for _ in range(10)]
    assert ids == [f"n{i}" for i in range(10)]
    assert time.monotonic() - began > 1.5, "60 kB at 20 kB a second, 20 kB at once"


async def sending_s(sender: Client, receiver: Client, count: int, size: int = 0) -> float:
    """How long so many messages take until the last has arrived."""
    began = time.monotonic()
    for _ in range(count - 1):
        sender.send(message(receiver.jid, "x" * size))
    mark = sender.send(message(receiver.jid, id=sender.next_id()))
    await receiver.expect("message", id=mark, timeout_s=15)
    return time.monotonic() - began


async def login_again(clients: Clients, client: Client, how: str) -> Client:
    """The account on another connection: after the end of the first, beside it, or instead of it."""
    if how == "ended":
        await client.close()
    elif how == "gone":
        client.abort()
    elif how == "replaced":
        assert client.jid
        return await clients.bound(client, resource=client.jid.partition("/")[2])
    elif how == "resumed":
        again = await clients.authenticated(client.account)
        assert (await again.sm_resume(client)).name == "resumed"
        return again
    return await clients.bound(client)


BURSTS = {"stanzas": (75, 0, 40), "bytes": (7, 10_000, 6)}
"""Messages that use up a burst, their size, and as many as take two seconds without one."""


@slow_rates
@pytest.mark.parametrize("burst", BURSTS)
@pytest.mark.parametrize("how", ["ended", "gone", "replaced", "resumed"])
async def test_who_logs_in_again_has_no_second_burst(
    clients: Clients, bystanders: tuple[Client, Client], how: str, burst: str
) -> None:
    spent, size, more = BURSTS[burst]
    receiver = await clients.online()
    client = await clients.bound()
    if how == "resumed":
        await client.sm_enable()
    assert await sending_s(client, receiver, spent, size) < 1.5, "one burst there is"
    for _ in range(3):
        client = await login_again(clients, client, how)
    assert await sending_s(client, receiver, more, size) > 0.8
    assert await sending_s(bystanders[0], receiver, more, size) < 1, "others have their own"
    if how == "ended":
        await client.close()
        await asyncio.sleep(WHOLE_AGAIN_S + 0.5)
        again = await clients.bound(client)
        assert await sending_s(again, receiver, spent, size) < 1.5, "whole again"


@slow_rates
async def test_who_is_slowed_down_has_no_burst_on_another_connection(
    clients: Clients, bystanders: tuple[Client, Client]
) -> None:
    receiver = await clients.online()
    first = await clients.bound()
    for _ in range(150):
        first.send(message(receiver.jid))
    await asyncio.sleep(0.5)
    second = await clients.bound(first)
    assert await sending_s(second, receiver, 40) > 0.8


@slow_rates
async def test_a_user_with_several_clients_has_a_burst_for_each(clients: Clients) -> None:
    receiver = await clients.online()
    first = await clients.bound()
    devices = [first, await clients.bound(first), await clients.bound(first)]
    for device in devices:
        assert await sending_s(device, receiver, 60) < 1.5


# -- clients that do not read -----------------------------------------------------------


async def paused(client: Client) -> Client:
    """The client reads no more, and its kernel keeps little."""
    transport = client.transport
    assert isinstance(transport, TcpTransport)
    inner = transport._transport
    assert inner is not None
    sock: socket.socket = inner.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.pause()
    return client


def resident_mb(server: Server) -> float:
    """Memory of the node's process."""
    return resident_kb(server) / 1024


async def flood(sender: Client, to: str, count: int, size: int) -> None:
    """Sends messages at the pace at which the server takes them."""
    for i in range(count):
        sender.send(message(to, "x" * size, type="chat", id=f"f{i}"))
        if i % 20 == 19:
            await sender.sync()


@slow_readers
@pytest.mark.parametrize("has_sm", [False, True], ids=["plain", "stream management"])
async def test_a_client_that_does_not_read_is_ended(
    clients: Clients, server: Server, bystanders: tuple[Client, Client], has_sm: bool
) -> None:
    romeo, _ = bystanders
    lazy = await clients.bound(resource="lazy")
    if has_sm:
        await lazy.sm_enable()
    await lazy.roster()
    await lazy.online()
    before = metrics(server)
    await paused(lazy)
    # Far more than the sockets' own buffers take (some MB), in messages that are worth keeping.
    count, size = 400, 50_000
    await flood(romeo, lazy.bare, count, size)

    def is_over() -> bool:
        now = metrics(server)
        overflows = "antiphon_queue_overflows_total"
        is_ended = now["antiphon_connections"] < before["antiphon_connections"]
        return now[overflows] > before[overflows] and is_ended

    await until(is_over, "the connection of the client that does not read is gone", 15)
    assert resident_mb(server) < 400
    again = await clients.online(lazy)
    got = []
    while not got or got[-1] != f"f{count - 1}":
        got.append((await again.expect("message", timeout_s=20)).id)
    numbers = [int(str(i)[1:]) for i in got]
    assert numbers == sorted(numbers), "order"
    if has_sm:
        assert set(numbers) == set(range(count)), "what was not confirmed is not lost"


@slow_readers
async def test_requests_of_a_client_that_does_not_read_wait(
    clients: Clients, server: Server, bystanders: tuple[Client, Client]
) -> None:
    # its answers may not pile up, and neither may acknowledgements
    lazy = await clients.bound()
    await lazy.sm_enable()
    await paused(lazy)
    ping = f"<iq type='get' id='{'x' * 500}' to='{lazy.host}'><ping xmlns='{ns.PING}'/></iq>"
    ask = f"<r xmlns='{ns.SM}'/>"
    before = resident_mb(server)
    for _ in range(200):
        lazy.send_raw((ping + ask * 20) * 20)
        await asyncio.sleep(0)
    await asyncio.sleep(1)
    assert resident_mb(server) - before < 60
    lazy.abort()


@slow_readers
async def test_pings_of_a_websocket_that_does_not_read_wait(
    clients: Clients, server: Server, bystanders: tuple[Client, Client]
) -> None:
    reader, writer = await asyncio.open_connection(server.address, server.ports.http)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: xmpp\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    transport = writer.transport
    transport.pause_reading()
    before = resident_mb(server)
    frame = bytes([0x89, 0x80 | 125, 0, 0, 0, 0]) + b"p" * 125
    batch = frame * 500
    total = 0
    # 60 MB of pongs would be owed; the server must stop reading long before
    for _ in range(1000):
        writer.write(batch)
        total += len(batch)
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            break
    assert resident_mb(server) - before < 40
    transport.abort()


@slow_readers
async def test_a_component_that_does_not_read_is_ended(
    server: Server, clients: Clients, bystanders: tuple[Client, Client]
) -> None:
    romeo, _ = bystanders
    component = await Component(server).login()
    await paused(component)
    for i in range(400):
        romeo.send(message(component.address("x"), "x" * 50_000, id=f"f{i}"))
        if i % 20 == 19:
            await romeo.sync()
    bounced = await romeo.expect("message", type="error", timeout_s=15)
    assert bounced.condition in ("service-unavailable", "resource-constraint")
    component.abort()
    for _ in range(100):
        again = Component(server)
        try:
            await again.login()
        except (AssertionError, OSError):
            await asyncio.sleep(0.05)
            continue
        await again.close()
        return
    pytest.fail("the component cannot come back")
