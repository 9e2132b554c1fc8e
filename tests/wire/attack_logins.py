# SPDX-License-Identifier: Apache-2.0
"""Storms of logins: they take turns, live sessions go first, everybody gets in.

Cases 4, 8 and 25 of README.md. What is asserted is counted by the node, not timed;
`benchmarks/storm.py` measures how long live sessions wait.
"""

from __future__ import annotations

import asyncio
import ssl

import pytest

from support import ns
from support.hostile import Bystanders, metrics, opened, resident_kb, settled_kb, until
from support.play import Clients
from support.server import Server
from support.xml import E, iq, message

pytestmark = pytest.mark.ours("admission control is ours")

STORM = 300
AT_ONCE = 2
HEADROOM_KB = 16_384
WAITING = "antiphon_logins_waiting"
DELAYED = "antiphon_login_steps_delayed_total"
IN_HAND = "antiphon_login_steps_in_hand"
UNKNOWN = "antiphon_connections_before_login"

in_turn = pytest.mark.settings(node={"worker_threads": 2}, limits={"logins_per_worker": 1})
few = pytest.mark.settings(limits={"connections_before_login": 12})


def greeting(name: str) -> bytes:
    """The first flight of a TLS client, which costs the server a signature."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Storm:
    """Handshakes that all begin at the same moment and stop half way."""

    def __init__(self, server: Server, count: int) -> None:
        self._server, self._count = server, count
        self._hello = greeting(server.domain)
        self._open: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def gather(self) -> None:
        """Connects, and says nothing yet."""
        port = self._server.ports.direct
        for _ in range(self._count):
            self._open.append(await asyncio.open_connection(self._server.address, port))

    async def blow(self) -> None:
        """Every client says hello, and waits for its answer."""
        for _, writer in self._open:
            writer.write(self._hello)
        async with asyncio.timeout(20):
            for reader, _ in self._open:
                assert (await reader.readexactly(1)) == b"\x16", "no answer to a handshake"

    def end(self) -> None:
        """All are gone."""
        for _, writer in self._open:
            writer.transport.abort()
        self._open.clear()


@in_turn
async def test_a_storm_of_handshakes_takes_turns_and_everybody_is_answered(
    clients: Clients, server: Server
) -> None:
    storm = Storm(server, STORM)
    before, delayed = resident_kb(server), metrics(server)[DELAYED]
    async with Bystanders(clients):
        for _ in range(3):
            await storm.gather()
            await storm.blow()
            storm.end()
    seen = metrics(server)
    assert seen[DELAYED] > delayed, "no handshake had to wait: this was no storm"
    assert seen[f"{IN_HAND}_max"] <= AT_ONCE, "more were in hand than may be"
    await until(lambda: metrics(server)[UNKNOWN] == 0, "all are gone")
    seen = metrics(server)
    assert (seen[WAITING], seen[IN_HAND]) == (0, 0), "turns were lost"
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


@in_turn
async def test_who_came_before_a_storm_logs_in_during_it(clients: Clients, server: Server) -> None:
    early = await opened(clients.raw(account=server.account()))
    storms = [Storm(server, STORM) for _ in range(4)]
    for storm in storms:
        await storm.gather()
    blowing = [asyncio.create_task(storm.blow()) for storm in storms]
    await early.starttls()
    await early.authenticate()
    await early.bind()
    await early.sync()
    await asyncio.gather(*blowing)
    for storm in storms:
        storm.end()
    assert metrics(server)[f"{IN_HAND}_max"] <= AT_ONCE


@in_turn
@pytest.mark.parametrize("kind", ["starttls", "direct", "wss"])
async def test_a_storm_of_logins_lets_everybody_in(
    clients: Clients, server: Server, kind: str
) -> None:
    accounts = [server.account() for _ in range(60)]
    async with Bystanders(clients):
        together = await asyncio.gather(*(clients.online(a, kind=kind) for a in accounts))
        for client in together:
            await client.sync()
    seen = metrics(server)
    assert seen[f"{IN_HAND}_max"] <= AT_ONCE
    assert (seen[WAITING], seen[IN_HAND], seen[UNKNOWN]) == (0, 0, 0), "logged in is logged in"


@in_turn
async def test_those_who_leave_while_they_wait_take_no_turn_with_them(
    clients: Clients, server: Server
) -> None:
    for _ in range(3):
        storm = Storm(server, STORM)
        await storm.gather()
        blowing = asyncio.create_task(storm.blow())
        await asyncio.sleep(0.005)
        blowing.cancel()
        storm.end()
    await until(lambda: metrics(server)[UNKNOWN] == 0, "all are gone")
    assert metrics(server)[IN_HAND] == 0
    await (await clients.online(kind="direct")).sync()


@pytest.mark.settings(limits={"login_seconds": 4, "logins_per_worker": 1})
async def test_who_waits_is_put_out_when_the_time_to_log_in_is_over(
    clients: Clients, server: Server
) -> None:
    # hundreds that wait for their peers hold no turn, and none of them stays
    storm = Storm(server, STORM)
    async with Bystanders(clients):
        await storm.gather()
        await storm.blow()
        await until(lambda: metrics(server)[UNKNOWN] == 0, "none stays", timeout_s=12)
    storm.end()


# -- how many may be without a login -------------------------------------------------------------


@few
async def test_more_connections_without_a_login_than_may_be_are_refused(
    clients: Clients, server: Server
) -> None:
    # RFC 6120 §4.9.3.17
    romeo, juliet = await clients.online(), await clients.online(kind="direct")
    waiting = [await opened(clients.raw(account=server.account())) for _ in range(12)]
    extra = clients.raw()
    await extra.connect()
    extra.open_header()
    await extra.expect_stream_error("resource-constraint")
    await extra.expect_eof()
    for port in (server.ports.direct, server.ports.component):
        reader, writer = await asyncio.open_connection(server.address, port)
        assert await asyncio.wait_for(reader.read(), 5) == b"", "refused without a word"
        writer.close()
    romeo.send(message(juliet.jid, "we are in", type="chat"))
    assert (await juliet.expect("message", type="chat")).body == "we are in"
    lucky = waiting.pop()
    await lucky.starttls()
    await lucky.authenticate()
    await lucky.bind()
    # which made room for one
    await until(lambda: metrics(server)[UNKNOWN] == 11, "a login counts no more")
    waiting.append(await opened(clients.raw()))
    for client in waiting:
        client.abort()
    await until(lambda: metrics(server)[UNKNOWN] == 0, "all are gone")
    await (await clients.online()).sync()


# -- rates before login ------------------------------------------------------------------------------


@pytest.mark.settings(
    limits={"stanzas_per_second": 20, "burst_stanzas": 100}, modules_register={"enabled": True}
)
async def test_requests_to_register_come_at_a_rate(clients: Clients, server: Server) -> None:
    # Python answers them; each counts as ten stanzas
    client = await clients.stream()
    async with Bystanders(clients):
        for i in range(200):
            client.send(iq("get", E("query", ns.REGISTER), to=client.host, id=f"r{i}"))
        await asyncio.sleep(2)
    answered = len([e for e in client.drain() if e.name == "iq"])
    assert 10 <= answered <= 10 + 2 * 6, "ten at once, two a second"


@pytest.mark.settings(limits={"bytes_per_second": 10_000, "burst_bytes": 20_000})
async def test_white_space_before_login_comes_at_a_rate(clients: Clients, server: Server) -> None:
    # nothing but keepalives, and yet bytes
    client = await opened(clients.raw())
    taken = metrics(server)["antiphon_socket_received_bytes_total"]
    async with Bystanders(clients):
        client.send_raw(" " * 20_000_000)
        await asyncio.sleep(2)
    taken = metrics(server)["antiphon_socket_received_bytes_total"] - taken
    assert taken < 2_000_000, "the rest waits at the sender's"
