# SPDX-License-Identifier: Apache-2.0
"""Floods: of connections, of one at many, of many at one; readers that are slow or gone.

Cases 4 and 25 of README.md. Every test counts what it sends, lets two bystanders talk meanwhile
and looks whether the node's memory is back where it was. What limits are for is in limits.py.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine

import pytest

from support import ns
from support.client import Client, fence
from support.component import Component
from support.hostile import Bystanders, cpu_s, header, opened, resident_kb, settled_kb, until
from support.play import Clients
from support.server import Server
from support.transport import TcpTransport
from support.xml import E, iq, message, presence

pytestmark = pytest.mark.ours("memory of our process")

HEADROOM_KB = 16_384
CONNECTIONS = 5_000
AT_ONCE = 250
RESET = struct.pack("ii", 1, 0)


async def in_batches(one: Callable[[], Coroutine[None, None, None]], count: int) -> None:
    """Runs so many of them, a batch at a time."""
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))


async def dropped(server: Server, port: int, octets: bytes, *, is_reset: bool) -> None:
    """A connection that says this much and is gone."""
    _, writer = await asyncio.open_connection(server.address, port)
    if octets:
        writer.write(octets)
        await writer.drain()
    if is_reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
    else:
        writer.close()


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: xmpp\r\n\r\n"
)
WORDS = {
    "nothing": ("c2s", b""),
    "a header": ("c2s", None),
    "half a stanza": ("c2s", b"<auth>" + b"x" * 5_000),
    "half a request": ("http", b"GET /ws HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2_000),
    "a WebSocket": ("http", UPGRADE),
    "a component's header": ("component", None),
}


@pytest.mark.parametrize("words", WORDS)
async def test_connections_without_a_login_leave_no_memory_behind(
    clients: Clients, server: Server, words: str
) -> None:
    # CVE-2026-43506, CVE-2021-32918
    name, octets = WORDS[words]
    port = {
        "c2s": server.ports.c2s,
        "http": server.ports.http,
        "component": server.ports.component,
    }[name]
    if octets is None:
        content = ns.COMPONENT if name == "component" else ns.CLIENT
        octets = header(server.domain, content).encode()
    elif name == "c2s" and octets:
        octets = header(server.domain).encode() + octets
    said = octets
    turn = 0

    async def one() -> None:
        nonlocal turn
        turn += 1
        await dropped(server, port, said, is_reset=turn % 2 == 0)

    await in_batches(one, AT_ONCE * 2)
    before = resident_kb(server)
    async with Bystanders(clients):
        await in_batches(one, CONNECTIONS if words == "nothing" else 1_500)
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_sessions_that_come_and_go_leave_no_memory_behind(
    clients: Clients, server: Server
) -> None:
    # with rosters, presence and messages that wait, each account twice
    accounts = [server.account() for _ in range(20)]

    async def one(number: int) -> None:
        client = await clients.online(accounts[number], kind="direct")
        client.send(message(client.bare, "x" * 500, type="chat"))
        await client.sync()
        client.abort()

    async def wave() -> None:
        for at in range(0, len(accounts), 5):
            await asyncio.gather(*(one(at + i) for i in range(5)))

    await wave()
    before = resident_kb(server)
    async with Bystanders(clients):
        for _ in range(8):
            await wave()
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


# -- one at many, many at one -----------------------------------------------------------------------


async def test_a_flood_of_one_at_many_arrives_and_harms_nobody(
    clients: Clients, server: Server
) -> None:
    flooder = await clients.online()
    victims = [await clients.online(kind="direct") for _ in range(30)]
    before = resident_kb(server)
    async with Bystanders(clients):
        for i in range(100):
            for victim in victims:
                flooder.send(message(victim.jid, "x" * 200, type="chat", id=f"n{i}"))
            if i % 10 == 9:
                await flooder.sync()
        for victim in victims:
            await victim.expect("message", id="n99", timeout_s=20)
    for victim in victims:
        got = [e.id for e in victim.drain() if e.name == "message"]
        assert got == [f"n{i}" for i in range(99)]
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_a_flood_of_many_at_one_arrives_in_order_and_harms_nobody(
    clients: Clients, server: Server
) -> None:
    flooders = [await clients.online(kind="direct") for _ in range(20)]
    victim = await clients.online()
    before = resident_kb(server)

    async def flood(one: Client) -> None:
        for i in range(150):
            one.send(message(victim.jid, "x" * 500, type="chat", id=f"n{i}"))
            if i % 50 == 49:
                await one.sync()

    async with Bystanders(clients):
        await asyncio.gather(*(flood(one) for one in flooders))
        for one in flooders:
            await fence(one, victim)
    got: dict[str | None, list[str | None]] = {}
    for e in victim.drain():
        if e.type == "chat":
            got.setdefault(e.frm, []).append(e.id)
    assert set(got) == {one.jid for one in flooders}
    assert all(ids == [f"n{i}" for i in range(150)] for ids in got.values())
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


@pytest.mark.settings(limits={"stanzas_per_second": 50, "burst_stanzas": 50})
async def test_a_flood_beyond_the_rate_waits_in_the_flooders_socket(
    clients: Clients, server: Server
) -> None:
    victim = await clients.online()
    flooder = await clients.online()
    before, used = resident_kb(server), cpu_s(server)
    async with Bystanders(clients):
        for _ in range(200):
            flooder.send_raw(
                "".join(message(victim.jid, "x" * 1_000).xml(ns.CLIENT) for _ in range(100))
            )
        await asyncio.sleep(3)
    assert resident_kb(server) - before < HEADROOM_KB, "20 MB wait at the sender's"
    assert cpu_s(server) - used < 2.5
    assert len([e for e in victim.drain() if e.name == "message"]) < 500


# -- what one may make the node remember ---------------------------------------------------------


async def test_directed_presence_is_remembered_for_so_many_only(
    clients: Clients, server: Server, component: Component
) -> None:
    # RFC 6121 §4.6.3: each gets unavailable presence at the end
    romeo = await clients.online()
    before = resident_kb(server)
    async with Bystanders(clients):
        for i in range(3_000):
            romeo.send(presence(to=component.address(f"p{i}")))
            if i % 250 == 249:
                await romeo.sync()
        refused = [e for e in romeo.drain() if e.type == "error"]
    assert refused
    assert {e.condition for e in refused} <= {"resource-constraint", "policy-violation"}
    taken = 3_000 - len(refused)
    romeo.abort()

    def ended() -> int:
        return len([e for e in component.inbox if e.type == "unavailable"])

    await component.wait_for(lambda: ended() >= taken, 10, "unavailable presence")
    assert ended() == taken
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_requests_to_subscribe_from_many_strangers_are_bounded(
    clients: Clients, component: Component
) -> None:
    # stored for a user who is away; beyond the limit they are dropped in silence
    juliet = await clients.online()
    await juliet.close()
    for i in range(1_300):
        frm = component.address(f"s{i}")
        component.send(presence(type="subscribe", to=juliet.bare, from_=frm))
        if i % 200 == 199:
            await component.sync()
    await component.sync()
    again = await clients.bound(juliet)
    await again.roster()
    await again.online()
    await again.sync()
    await asyncio.sleep(0.3)
    asked = [e for e in again.drain() if e.type == "subscribe"]
    assert 500 <= len(asked) <= 1_000
    assert (await again.roster()).at(("query", ns.ROSTER)).children == []


async def test_requests_that_nobody_answers_are_not_remembered(
    clients: Clients, server: Server
) -> None:
    # RFC 6120 §8.2.3: an IQ between clients is theirs, the node keeps no list of them
    romeo = await clients.online()
    mute = await clients.online()
    for _ in range(2):
        before = resident_kb(server)
        for i in range(3_000):
            romeo.send(iq("get", E("query", ns.VERSION), to=mute.jid, id=f"{'q' * 100}{i}"))
            if i % 300 == 299:
                await romeo.sync()
        await romeo.sync()
        mute.drain()
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


def answered(client: Client) -> int:
    """Requests of the flood that have their answers."""
    return sum(1 for e in client.inbox if e.name == "iq" and (e.id or "").startswith("q"))


async def test_a_flood_of_requests_for_python_delays_no_message_and_is_answered(
    clients: Clients, server: Server
) -> None:
    # service discovery is answered by Python, messages are not; a full queue refuses requests
    flooders = [await clients.online(kind="direct") for _ in range(5)]
    before = resident_kb(server)
    async with Bystanders(clients):
        for one in flooders:
            for i in range(1_000):
                payload = E("query", ns.DISCO_INFO)
                one.send(iq("get", payload, to=one.host, id=f"q{i}"))
        for one in flooders:
            await one.sync()
        # Python's answers may come behind that to a later ping
        await until(
            lambda: all(answered(one) >= 1_000 for one in flooders), "each has its answer", 20
        )
    for one in flooders:
        answers = {e.id: e for e in one.drain() if e.name == "iq" and (e.id or "").startswith("q")}
        assert len(answers) == 1_000
        refused = {e.condition for e in answers.values() if e.type == "error"}
        assert refused <= {"resource-constraint"}
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_presence_that_changes_all_the_time_harms_no_contact(
    clients: Clients, server: Server
) -> None:
    # RFC 6121 §4.4.2: one stanza becomes as many as there are contacts
    flooder = await clients.online()
    contacts = [await clients.online(kind="direct") for _ in range(10)]
    for contact in contacts:
        await clients.friends(flooder, contact)
    before = resident_kb(server)
    async with Bystanders(clients):
        for i in range(500):
            flooder.send(presence(E("status", None, f"s{i}")))
        await flooder.sync()
        for contact in contacts:
            await fence(flooder, contact)
    for contact in contacts:
        seen = [e for e in contact.drain() if e.name == "presence" and e.frm == flooder.jid]
        texts = [e.child("status", ns.CLIENT) for e in seen]
        assert [t.text for t in texts if t is not None][-1] == "s499", "in order, the last one last"
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


# -- readers that are slow or gone -------------------------------------------------------------------


SHARE_KB = 16_384


@pytest.mark.settings(limits={"outgoing_bytes": 200_000})
async def test_many_who_do_not_read_hold_no_more_than_their_share(
    clients: Clients, server: Server
) -> None:
    flooder = await clients.online()
    before = resident_kb(server)
    for _ in range(3):
        lazy = [await clients.online(kind="direct") for _ in range(10)]
        for one in lazy:
            stop_reading(one)
        async with Bystanders(clients):
            for i in range(150):
                for one in lazy:
                    flooder.send(message(one.jid, "x" * 40_000, type="headline"))
                if i % 5 == 4:
                    await flooder.sync()
            # 60 MB a round; 10 × (200 KB and what a TLS session and its socket hold) may stay: what
            # the allocator keeps of queues that were thrown away is given back within the flood
            assert resident_kb(server) - before < SHARE_KB, "at the flood's end"
            assert await settled_kb(server, before + SHARE_KB) < before + SHARE_KB
        for one in lazy:
            one.abort()
        assert await settled_kb(server, before + SHARE_KB) < before + SHARE_KB


def stop_reading(client: Client) -> None:
    """Leaves what comes to the socket's buffer, made small."""
    transport = client.transport
    assert isinstance(transport, TcpTransport)
    assert transport._transport is not None
    sock = transport._transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.pause()


async def test_a_slow_reader_gets_all_and_delays_nobody(clients: Clients, server: Server) -> None:
    # some KB at a time: slow, but alive
    sender = await clients.online()
    slow = await clients.online()
    transport = slow.transport
    assert isinstance(transport, TcpTransport)
    transport.pause_reading()
    async with Bystanders(clients):
        for i in range(40):
            sender.send(message(slow.jid, "x" * 5_000, type="chat", id=f"n{i}"))
        await sender.sync()
        for _ in range(30):
            transport.resume_reading()
            await asyncio.sleep(0.005)
            transport.pause_reading()
            await asyncio.sleep(0.03)
        transport.resume_reading()
        ids = [(await slow.expect("message", timeout_s=10)).id for _ in range(40)]
    assert ids == [f"n{i}" for i in range(40)]


@pytest.mark.settings(limits={"login_seconds": 2, "idle_seconds": 2})
async def test_half_open_connections_end_by_themselves(clients: Clients, server: Server) -> None:
    # peers that are gone without a word: nobody reads, nobody answers
    gone = [await opened(clients.raw()) for _ in range(50)]
    gone += [await clients.online(kind="direct") for _ in range(10)]
    for client in gone:
        client.pause()
    async with Bystanders(clients):
        for _ in range(80):
            if all(_is_closed(client) for client in gone):
                break
            await asyncio.sleep(0.25)
    open_ = [client.name for client in gone if not _is_closed(client)]
    assert open_ == [], "the node keeps connections whose peers are gone"


def _is_closed(client: Client) -> bool:
    """Whether the node has closed: the kernel has its FIN or RST, though nobody reads."""
    transport = client.transport
    assert isinstance(transport, TcpTransport)
    assert transport._transport is not None
    sock = transport._transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    # the first byte of tcp_info is the state; 1 is ESTABLISHED (Linux, tcp(7))
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state != 1
