# SPDX-License-Identifier: Apache-2.0
"""What hostile connections cost the node, and what they cost the attacker.

    .venv/bin/python benchmarks/hostile.py [KIND]...

Each kind has a node of its own, with its default limits but for those that would stop the
measurement. What a kind needs beforehand (sessions, say) is prepared and not counted; then it is
done so many times, by one process with blocking sockets and bytes made before, as an attacker
would.
Counted are the processor time of the node and of this process until then and for a while after, and
what the node has grown by at most, the kernel's buffers left out. Python is a slow attacker: where
this table says that an attack costs the same, one in C pays a half to a third.
Prints the table and writes it to `results/`.
"""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench import machine  # noqa: E402

from support import ns  # noqa: E402
from support.antiphon import Antiphon  # noqa: E402
from support.certs import Authority  # noqa: E402
from support.hostile import header, resident_kb  # noqa: E402
from support.sasl import plain  # noqa: E402
from support.server import Server, Settings, make_ports  # noqa: E402

ADDRESS = "127.0.0.1"
RESULTS = ROOT / "benchmarks" / "results"
HOLD_S = 4.0
QUIET_S = 0.3
"""Silence that means that all answers have come."""
WARM = 4
SETTINGS = Settings.of(
    limits={"stanzas_per_second": 0, "bytes_per_second": 0, "auth_failures_per_minute": 0},
    auth={"allow_plaintext": True},
)


class Peer:
    """A connection of the attacker: blocking, with TLS or without."""

    def __init__(self, stage: Stage, port: int, *, tls: bool = False) -> None:
        sock = socket.create_connection((ADDRESS, port), 30)
        self.sock: socket.socket = sock
        if tls:
            self.sock = stage.context.wrap_socket(sock, server_hostname=stage.domain)
        self.stage = stage
        self.jid = ""

    def send(self, octets: bytes) -> None:
        """All of it, counted."""
        self.sock.sendall(octets)
        self.stage.sent += len(octets)

    def until(self, mark: bytes) -> bytes:
        """Reads until this has come."""
        got = b""
        while mark not in got:
            piece = self.sock.recv(65_536)
            if not piece:
                raise ConnectionError(f"closed after {got[-300:]!r}")
            got += piece
        return got

    def open(self) -> None:
        """A stream, up to its features."""
        self.send(self.stage.header)
        self.until(b"</stream:features>")

    def session(self) -> Peer:
        """PLAIN, bind, roster, presence, each time as another user."""
        user, password = self.stage.next_account()
        self.open()
        proof = b64encode(plain(user, password)).decode()
        self.send(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{proof}</auth>".encode())
        self.until(b"<success")
        self.open()
        self.send(f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'/></iq>".encode())
        self.jid = self.until(b"</iq>").partition(b"<jid>")[2].partition(b"</jid>")[0].decode()
        self.send(f"<presence/><iq type='get' id='r'><query xmlns='{ns.ROSTER}'/></iq>".encode())
        self.until(b"id='r'")
        return self


@dataclass
class Stage:
    """One node and what is connected to it."""

    server: Antiphon
    accounts: list[tuple[str, str]]
    context: ssl.SSLContext
    kept: list[Peer] = field(default_factory=list)
    ready: list[Peer] = field(default_factory=list)
    sent: int = 0
    peak_kb: int = 0

    def __post_init__(self) -> None:
        self.domain = self.server.domain
        self.header = header(self.domain).encode()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_hostname=self.domain)
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        self.hello = outgoing.read()

    def next_account(self) -> tuple[str, str]:
        """One after another, round and round."""
        self.accounts.append(self.accounts.pop(0))
        return self.accounts[-1]

    def tcp(self) -> Peer:
        """To the listener with STARTTLS."""
        return self.keep(Peer(self, self.server.ports.c2s))

    def plain(self) -> Peer:
        """To the listener without TLS."""
        return self.keep(Peer(self, self.server.ports.plain))

    def direct(self, *, tls: bool = True) -> Peer:
        """To the listener with direct TLS."""
        return self.keep(Peer(self, self.server.ports.direct, tls=tls))

    def keep(self, peer: Peer) -> Peer:
        """It stays open."""
        self.kept.append(peer)
        return peer

    def prepared(self) -> Peer:
        """A session that was made before the measurement."""
        return self.ready.pop()

    def look(self) -> None:
        """Notes the memory if it is the most so far."""
        self.peak_kb = max(self.peak_kb, resident_kb(self.server))


Act = Callable[[Stage], None]


def well_behaved(stage: Stage) -> None:
    """TLS, login, roster, presence; then idle."""
    stage.direct().session()


def idle_tcp(stage: Stage) -> None:
    """Connects and says nothing."""
    stage.tcp()


def come_and_go(stage: Stage) -> None:
    """Connects, opens a stream and is gone."""
    peer = Peer(stage, stage.server.ports.c2s)
    peer.send(stage.header)
    peer.sock.close()


def only_header(stage: Stage) -> None:
    """Opens a stream in clear and stops there."""
    stage.tcp().open()


def half_handshake(stage: Stage) -> None:
    """Sends a recorded ClientHello, takes the answer, stops."""
    peer = stage.direct(tls=False)
    peer.send(stage.hello)
    peer.sock.recv(65_536)


def whole_handshake(stage: Stage) -> None:
    """TLS, and then nothing."""
    stage.direct()


def garbage(stage: Stage) -> None:
    """Something else instead of a handshake; closed at once."""
    peer = Peer(stage, stage.server.ports.direct)
    peer.send(b"GET / HTTP/1.0\r\n\r\n")
    peer.sock.recv(100)
    peer.sock.close()


def half_login(stage: Stage) -> None:
    """Asks for a SCRAM challenge of nobody and does not answer it."""
    peer = stage.plain()
    peer.open()
    first = b64encode(b"n,,n=nobody,r=abcdefghijklmnopqrstuvwx").decode()
    peer.send(f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{first}</auth>".encode())
    peer.until(b"</challenge>")


def wrong_password(stage: Stage) -> None:
    """PLAIN with a wrong password: the node has to derive a key, as for a right one."""
    peer = Peer(stage, stage.server.ports.plain)
    peer.open()
    proof = b64encode(plain(stage.accounts[0][0], "wrong")).decode()
    peer.send(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{proof}</auth>".encode())
    peer.until(b"</failure>")
    peer.sock.close()


def unfinished_before(stage: Stage) -> None:
    """Almost the largest element that a stranger may send, as many tags as it may have."""
    text = "<auth>" + "<a/>" * 250
    peer = stage.tcp()
    peer.open()
    peer.send((text + "x" * (9_900 - len(text))).encode())


def unfinished(text: str) -> Act:
    """After login: a stanza that never ends."""

    def act(stage: Stage) -> None:
        stage.prepared().send(text.encode())

    return act


def slow_reader(stage: Stage) -> None:
    """After login: reads nothing of 6 MB that it sends to itself; the node ends it at 4 MB."""
    peer = stage.prepared()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    text = f"<message type='headline' to='{peer.jid}'><body>"
    octets = (text + "x" * 50_000 + "</body></message>").encode()
    with suppress(OSError):
        for _ in range(120):
            peer.send(octets)
    stage.look()


def flood(text: str, count: int) -> Act:
    """After login: so many stanzas in one go, and their answers read."""
    ping = f"<iq type='get' id='end'><ping xmlns='{ns.PING}'/></iq>"

    def act(stage: Stage) -> None:
        peer = stage.prepared()
        octets = (text.replace("{domain}", stage.domain) * count + ping).encode()
        for at in range(0, len(octets), 16_384):
            peer.send(octets[at : at + 16_384])
            peer.sock.setblocking(False)
            with suppress(BlockingIOError, ssl.SSLWantReadError):
                while peer.sock.recv(65_536):
                    pass
            peer.sock.setblocking(True)
        peer.sock.settimeout(QUIET_S)
        with suppress(TimeoutError):
            while peer.sock.recv(65_536):
                pass
        stage.look()

    return act


RENEWAL = "new connections a minute: ten times connections_per_address"
FAILURES = "auth_failures_per_minute: 60 of an address"
BYTES = "bytes_per_second, sessions_per_user"
STANZAS = "stanzas_per_second: 200 of a client"
DISCO = f"<iq type='get' id='d' to='{{domain}}'><query xmlns='{ns.DISCO_INFO}'/></iq>"
CHAT = "<message type='chat' to='nobody@{domain}'><body>hello there</body></message>"

# what, how often, sessions prepared, what bounds it where it costs the node more
KINDS: dict[str, tuple[Act, int, bool, str]] = {
    "well-behaved: TLS, login, idle": (well_behaved, 100, False, ""),
    "TCP, silent": (idle_tcp, 500, False, "connections_per_address, login_seconds"),
    "TCP, header, gone": (come_and_go, 1_000, False, RENEWAL),
    "header only": (only_header, 500, False, RENEWAL),
    "half a TLS handshake": (half_handshake, 300, False, RENEWAL),
    "TLS, silent": (whole_handshake, 200, False, RENEWAL),
    "no TLS where TLS is": (garbage, 300, False, RENEWAL),
    "SCRAM, half": (half_login, 300, False, RENEWAL),
    "wrong password by PLAIN": (wrong_password, 100, False, FAILURES),
    "unfinished before login": (unfinished_before, 300, False, RENEWAL),
    "unfinished text": (unfinished("<message><body>" + "x" * 260_000), 40, True, BYTES),
    "unfinished children": (unfinished("<message>" + "<a/>" * 1_000), 40, True, BYTES),
    "unfinished tags": (unfinished("<message><x>" + "<a/>" * 24_900), 40, True, BYTES),
    "reads nothing": (slow_reader, 10, True, "outgoing_bytes, bytes_per_second"),
    "1,000 messages to nobody": (flood(CHAT, 1_000), 20, True, STANZAS),
    "1,000 requests for Python": (flood(DISCO, 1_000), 20, True, STANZAS),
}


def processor_ms(server: Server) -> float:
    """Processor time of the node's threads, to the nanosecond; none of them ends meanwhile."""
    assert server.process is not None
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e6


def idle_share(server: Server) -> float:
    """What the node spends on its own, ms a second: to be left out."""
    before, pause_s = processor_ms(server), 2.0
    time.sleep(pause_s)
    return (processor_ms(server) - before) / pause_s


@dataclass
class Row:
    """One line of the table; KB and ms for each connection."""

    kind: str
    number: int
    memory_kb: float
    sent_kb: float
    node_ms: float
    attacker_ms: float
    node_ms_per_minute: float

    @property
    def cells(self) -> list[str]:
        """As shown."""
        ratio = self.node_ms / self.attacker_ms if self.attacker_ms else 0.0
        return [
            self.kind, str(self.number), f"{self.memory_kb:.1f}", f"{self.sent_kb:.1f}",
            f"{self.node_ms:.3f}", f"{self.attacker_ms:.3f}", f"{ratio:.1f}",
            f"{self.node_ms_per_minute:.2f}",
        ]  # fmt: skip


HEAD = [
    "each connection", "number", "memory KB", "sent KB", "node ms", "attacker ms",
    "node/attacker", "node ms a minute held",
]  # fmt: skip


def measure(stage: Stage, kind: str) -> Row:
    """One kind on its node."""
    act, count, needs_session, _ = KINDS[kind]
    server = stage.server
    time.sleep(1)
    idle = idle_share(server)
    for _ in stage.accounts if act is well_behaved else ():
        # the node remembers the proof of a last login, as it does of any client that comes back
        Peer(stage, server.ports.direct, tls=True).session().sock.close()
    if needs_session:
        stage.ready = [stage.direct().session() for _ in range(count + WARM)]
    for _ in range(WARM):
        act(stage)
    time.sleep(1)
    before, stage.sent = resident_kb(server), 0
    stage.peak_kb = before
    began, node, own = time.monotonic(), processor_ms(server), time.process_time()
    for _ in range(count):
        act(stage)
    own = time.process_time() - own
    stage.look()
    # what was only sent is still to be worked on
    time.sleep(1)
    opened = processor_ms(server) - idle * (time.monotonic() - began)
    stage.look()
    time.sleep(HOLD_S)
    held = processor_ms(server) - idle * (time.monotonic() - began)
    stage.look()
    return Row(
        kind=kind,
        number=count,
        memory_kb=(stage.peak_kb - before) / count,
        sent_kb=stage.sent / 1024 / count,
        node_ms=(opened - node) / count,
        attacker_ms=own * 1000 / count,
        node_ms_per_minute=max(0.0, held - opened) / count * 60 / HOLD_S,
    )


def staged(kind: str) -> Row:
    """Starts a node for the kind."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        authority = Authority(place / "ca")
        server = Antiphon(place, SETTINGS, ADDRESS, make_ports(ADDRESS), authority)
        try:
            server.start()
            made = [server.account() for _ in range(min(KINDS[kind][1] + WARM, 150))]
            accounts = [(account.user, account.password) for account in made]
            context = ssl.create_default_context(cafile=str(authority.ca))
            stage = Stage(server, accounts, context)
            return measure(stage, kind)
        finally:
            server.stop()


def about_table() -> list[str]:
    """How to read it."""
    return [
        "One Python process with recorded bytes is the attacker; what an idle node spends is left",
        "out. Where node/attacker is above 1 the last column names the limit that keeps an",
        "address or a client from repeating it; the node spends at most the product of both.",
    ]


def write(rows: list[Row]) -> None:
    """Table and figures under `results/`."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    base = RESULTS / f"{stamp}-{machine.commit()}-hostile"
    found = [{name: getattr(row, name) for name in row.__dataclass_fields__} for row in rows]
    about = {"machine": machine.describe(), "commit": machine.commit(), "rows": found}
    base.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    lines = [f"# {stamp}, commit {machine.commit()}: hostile connections", ""]
    head = [*HEAD, "bounded by"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join([*row.cells, KINDS[row.kind][3]])} |" for row in rows]
    lines += ["", *(about_table())]
    base.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"benchmarks/results/{base.name}.md")


def main(chosen: list[str]) -> int:
    """Prints the table; 2 for a kind that there is not."""
    unknown = [kind for kind in chosen if kind not in KINDS]
    if unknown:
        print(f"no such kind: {', '.join(unknown)}; there are: {', '.join(KINDS)}")
        return 2
    print(f"{HEAD[0]:<32}" + "".join(f"{name:>14}" for name in HEAD[1:]))
    rows = []
    for kind in chosen or KINDS:
        row = staged(kind)
        rows.append(row)
        print(f"{row.cells[0]:<32}" + "".join(f"{cell:>14}" for cell in row.cells[1:]), flush=True)
    if not chosen:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
