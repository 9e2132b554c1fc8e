# SPDX-License-Identifier: Apache-2.0
"""What a hostile connection costs the node, beside a well-behaved one.

    .venv/bin/python benchmarks/hostile.py [KIND]...

Each kind has a node of its own: a few connections warm it up, then so many more are opened and
held. Memory is what the process has grown by (the highest seen, without the kernel's buffers);
processor time is the node's, for getting there and for holding on a minute.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support import ns  # noqa: E402
from support.antiphon import Antiphon  # noqa: E402
from support.certs import Authority  # noqa: E402
from support.client import Client  # noqa: E402
from support.hostile import cpu_s, header, resident_kb  # noqa: E402
from support.sasl import Scram  # noqa: E402
from support.server import Settings, make_ports  # noqa: E402
from support.transport import TcpTransport  # noqa: E402
from support.xml import message  # noqa: E402

ADDRESS = "127.0.0.1"
HOLD_S = 5.0
WARM = 4
BEFORE_LOGIN = 9_900
AFTER_LOGIN = 260_000


@dataclass
class Stage:
    """One node and what is connected to it."""

    server: Antiphon
    kept: list[object] = field(default_factory=list)
    sent: int = 0
    peak_kb: int = 0

    async def tcp(self, port: int, octets: bytes = b"") -> asyncio.StreamWriter:
        """A connection that says this much."""
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        if octets:
            writer.write(octets)
            await writer.drain()
            self.sent += len(octets)
        self.kept += [reader, writer]
        return writer

    def client(self, kind: str = "direct") -> Client:
        """A client of a fresh account."""
        client = Client(self.server.endpoint(kind), self.server.account())
        self.kept.append(client)
        return client

    async def session(self) -> Client:
        """A well-behaved client: TLS, SCRAM, roster, presence."""
        client = await self.client().login()
        await client.roster()
        await client.online()
        return client


async def idle_tcp(stage: Stage) -> None:
    """Connects and says nothing."""
    await stage.tcp(stage.server.ports.c2s)


async def only_header(stage: Stage) -> None:
    """Opens a stream in clear and stops there."""
    await stage.tcp(stage.server.ports.c2s, header(stage.server.domain).encode())


async def half_handshake(stage: Stage) -> None:
    """Sends a ClientHello, takes the answer, stops."""
    tls = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = tls.wrap_bio(incoming, outgoing, server_hostname=stage.server.domain)
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    await stage.tcp(stage.server.ports.direct, outgoing.read())


async def whole_handshake(stage: Stage) -> None:
    """TLS, and then nothing."""
    await stage.client().connect()


async def half_login(stage: Stage) -> None:
    """Asks for a SCRAM challenge and does not answer it."""
    client = stage.client()
    await client.negotiate()
    assert client.account is not None
    scram = Scram("SCRAM-SHA-256", client.account.user, "unknown")
    await client.sasl(scram.mechanism, scram.first())


async def unfinished_before(stage: Stage) -> None:
    """Almost the largest element that a stranger may send, as many tags as it may have."""
    text = "<auth>" + "<a/>" * 250
    text += "x" * (BEFORE_LOGIN - len(text))
    await stage.tcp(stage.server.ports.c2s, (header(stage.server.domain) + text).encode())


async def unfinished_text(stage: Stage) -> None:
    """After login: almost the largest stanza, of text."""
    client = await stage.session()
    client.send_raw("<message><body>" + "x" * (AFTER_LOGIN - 15))
    stage.sent += AFTER_LOGIN


async def unfinished_tags(stage: Stage) -> None:
    """After login: almost as many elements as a stanza may have."""
    client = await stage.session()
    text = "<message>" + "<a/>" * 24_900
    client.send_raw(text)
    stage.sent += len(text)


async def slow_reader(stage: Stage) -> None:
    """After login: reads nothing while another sends it 12 MB."""
    flooder = stage.kept[0] if stage.kept else await stage.session()
    assert isinstance(flooder, Client)
    lazy = await stage.session()
    transport = lazy.transport
    assert isinstance(transport, TcpTransport)
    assert transport._transport is not None
    sock = transport._transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.pause()
    for _ in range(60):
        for _ in range(4):
            flooder.send(message(lazy.jid, "x" * 50_000, type="headline"))
        await flooder.sync()
        stage.peak_kb = max(stage.peak_kb, resident_kb(stage.server))
        stage.sent += 200_000


async def no_acks(stage: Stage) -> None:
    """After login: stream management, 900 messages of 200 bytes, no acknowledgement."""
    client = await stage.session()
    await client.sm_enable()
    text = message(client.jid, "x" * 200, type="chat").xml(ns.CLIENT)
    for _ in range(9):
        client.send_raw(text * 100)
        await client.sync()
    stage.sent += len(text) * 900


async def well_behaved(stage: Stage) -> None:
    """TLS, SCRAM, roster, presence; then idle."""
    await stage.session()


KINDS: dict[str, tuple[Callable[[Stage], Awaitable[None]], int]] = {
    "well-behaved": (well_behaved, 100),
    "idle TCP": (idle_tcp, 500),
    "header only": (only_header, 500),
    "half TLS handshake": (half_handshake, 300),
    "TLS, no login": (whole_handshake, 150),
    "login not finished": (half_login, 150),
    "unfinished before login": (unfinished_before, 300),
    "unfinished, text": (unfinished_text, 40),
    "unfinished, tags": (unfinished_tags, 40),
    "acknowledges nothing": (no_acks, 40),
    "slow reader": (slow_reader, 10),
}


async def measure(stage: Stage, kind: str) -> tuple[int, float, float, float, float]:
    """Connections; KB, sent KB and ms of processor each, and ms a minute each while held."""
    one, count = KINDS[kind]
    server = stage.server
    for _ in range(WARM):
        await one(stage)
    await asyncio.sleep(1)
    before, used, stage.sent, stage.peak_kb = resident_kb(server), cpu_s(server), 0, 0
    for _ in range(count):
        await one(stage)
    opened = cpu_s(server)
    await asyncio.sleep(HOLD_S)
    held = cpu_s(server)
    peak = max(stage.peak_kb, resident_kb(server))
    return (
        count,
        (peak - before) / count,
        stage.sent / 1024 / count,
        (opened - used) * 1000 / count,
        (held - opened) * 1000 / count * 60 / HOLD_S,
    )


def main(chosen: list[str]) -> int:
    """Prints the table; 2 for a kind that there is not."""
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown:
        print(f"no such kind: {', '.join(unknown)}; there are: {', '.join(KINDS)}")
        return 2
    print(f"{'kind':<26}{'number':>7}{'KB each':>9}{'KB sent':>9}{'ms each':>9}{'ms/min':>8}")
    for kind in chosen or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            authority = Authority(place / "ca")
            server = Antiphon(place, Settings(), ADDRESS, make_ports(ADDRESS), authority)
            try:
                server.start()
                count, kb, sent, ms, minute = asyncio.run(measure(Stage(server), kind))
            finally:
                server.stop()
        print(f"{kind:<26}{count:>7}{kb:>9.1f}{sent:>9.1f}{ms:>9.2f}{minute:>8.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
