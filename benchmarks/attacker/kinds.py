# SPDX-License-Identifier: Apache-2.0
"""What hostile connections do; each kind is one function that does it once."""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from support import ns
from support.sasl import plain

from .peers import Peer, Stage

QUIET_S = 0.3
"""Silence that means that all answers have come."""
LIMIT_S = 1.0
"""A node that takes nothing more for so long has had enough of this session."""
Act = Callable[[Stage], None]


def well_behaved(stage: Stage) -> None:
    """TLS, login, roster, presence; then idle."""
    stage.direct().session()


def idle_tcp(stage: Stage) -> None:
    """Connects and says nothing."""
    stage.tcp()


def crowd_tcp(stage: Stage) -> None:
    """The same, and looks now and then whether the node has closed it."""
    peer = stage.tcp()
    peer.sock.setblocking(False)
    with suppress(BlockingIOError):
        peer.answer()


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
    peer.answer()


def whole_handshake(stage: Stage) -> None:
    """TLS, and then nothing."""
    stage.direct()


def garbage(stage: Stage) -> None:
    """Something else instead of a handshake; closed at once."""
    peer = stage.passing(tls=False)
    peer.send(b"GET / HTTP/1.0\r\n\r\n")
    peer.answer()
    peer.sock.close()


def half_login(stage: Stage) -> None:
    """Asks for a SCRAM challenge of nobody and does not answer it."""
    peer = stage.keep(stage.for_login())
    peer.open()
    first = b64encode(b"n,,n=nobody,r=abcdefghijklmnopqrstuvwx").decode()
    peer.send(f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{first}</auth>".encode())
    peer.until(b"</challenge>")


def guess(stage: Stage) -> bytes:
    """PLAIN with a wrong password."""
    proof = b64encode(plain(stage.accounts[0][0], "wrong")).decode()
    return f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{proof}</auth>".encode()


def wrong_password(stage: Stage) -> None:
    """PLAIN with a wrong password: the node has to derive a key, as for a right one."""
    peer = stage.for_login()
    peer.open()
    peer.send(guess(stage))
    peer.until(b"</failure>")
    peer.sock.close()


def wrong_passwords(stage: Stage) -> None:
    """Wrong passwords on one connection until the node has had enough of it, at most 1,000."""
    peer = stage.for_login()
    peer.open()
    octets = guess(stage)
    try:
        for _ in range(1_000):
            peer.send(octets)
            if b"</stream:stream>" in peer.until(b"</failure>"):
                break
    finally:
        peer.sock.close()


def unfinished_before(stage: Stage) -> None:
    """Almost the largest element that a stranger may send, as many tags as it may have."""
    text = "<auth>" + "<a/>" * 250
    peer = stage.tcp()
    peer.open()
    peer.send((text + "x" * (9_900 - len(text))).encode())


def unfinished(text: str) -> Act:
    """After login: a stanza that never ends."""
    octets = text.encode()

    def act(stage: Stage) -> None:
        stage.prepared().send(octets)

    return act


def slow_reader(stage: Stage) -> None:
    """After login: reads nothing of 6 MB that it sends to itself; the node ends it at 4 MB."""
    peer = stage.prepared()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    text = f"<message type='headline' to='{peer.jid}'><body>"
    octets = (text + "x" * 50_000 + "</body></message>").encode()
    if stage.is_secure:
        peer.sock.settimeout(LIMIT_S)
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


def spent(text: str, count: int) -> Act:
    """After login: all that a client may send at once, then another login, which may so again."""

    def act(stage: Stage) -> None:
        peer = stage.passing().session()
        octets = (text.replace("{domain}", stage.domain) * count).encode()
        for at in range(0, len(octets), 16_384):
            peer.send(octets[at : at + 16_384])
        # The last that it asks is answered by whoever answers the others.
        peer.send(LAST.replace("{domain}", stage.domain).encode())
        peer.until(b"id='last'")
        peer.sock.close()

    return act


LAST = f"<iq type='get' id='last' to='{{domain}}'><query xmlns='{ns.DISCO_INFO}'/></iq>"
DISCO = f"<iq type='get' id='d' to='{{domain}}'><query xmlns='{ns.DISCO_INFO}'/></iq>"
CHAT = "<message type='chat' to='nobody@{domain}'><body>hello there</body></message>"
LARGE_TEXT = "<message><body>" + "x" * 260_000
MANY_CHILDREN = "<message>" + "<a/>" * 1_000
MANY_TAGS = "<message><x>" + "<a/>" * 24_900
WHOLE_TAGS = "<message to='nobody@{domain}'><x>" + "<a/>" * 24_900 + "</x></message>"

SPENT = 990
"""Stanzas of one go that what a client may send at once allows beside a login."""
RENEWAL = "new connections a minute: ten times connections_per_address"
FAILURES = "auth_failures_per_minute: 60 of an address"
BYTES = "bytes_per_second kept over logins, sessions_per_user, stanza_elements"
STANZAS = "stanzas_per_second kept over logins: 200 of a client; sessions_per_user"


@dataclass(frozen=True)
class Kind:
    """One line of the tables."""

    act: Act
    number: int
    """How often it is done with the limits out of the way."""
    needs_session: bool = False
    bound: str = ""
    """The limit that keeps an address or a client from repeating it."""
    sustained: Act | None = None
    """What an attacker does instead who wants to repeat it under the limits."""
    stanzas: int = 0
    """What that sends after its login, in stanzas that count to the rate."""


KINDS: dict[str, Kind] = {
    "well-behaved: TLS, login, idle": Kind(well_behaved, 100),
    "TCP, silent": Kind(
        idle_tcp, 500, bound="connections_per_address, login_seconds", sustained=crowd_tcp
    ),
    "TCP, header, gone": Kind(come_and_go, 1_000, bound=RENEWAL),
    "header only": Kind(only_header, 500, bound=RENEWAL),
    "half a TLS handshake": Kind(half_handshake, 300, bound=RENEWAL),
    "TLS, silent": Kind(whole_handshake, 200, bound=RENEWAL),
    "no TLS where TLS is": Kind(garbage, 300, bound=RENEWAL),
    "SCRAM, half": Kind(half_login, 300, bound=RENEWAL),
    "wrong password by PLAIN": Kind(wrong_password, 100, bound=FAILURES, sustained=wrong_passwords),
    "unfinished before login": Kind(unfinished_before, 300, bound=RENEWAL),
    "unfinished text": Kind(unfinished(LARGE_TEXT), 40, needs_session=True, bound=BYTES),
    "unfinished children": Kind(unfinished(MANY_CHILDREN), 40, needs_session=True, bound=BYTES),
    "unfinished tags": Kind(
        unfinished(MANY_TAGS), 40, needs_session=True, bound=BYTES, sustained=spent(WHOLE_TAGS, 10)
    ),
    "reads nothing": Kind(
        slow_reader, 10, needs_session=True, bound="outgoing_bytes, bytes_per_second"
    ),
    "1,000 messages to nobody": Kind(
        flood(CHAT, 1_000),
        20,
        needs_session=True,
        bound=STANZAS,
        sustained=spent(CHAT, SPENT),
        stanzas=SPENT,
    ),
    "1,000 requests for Python": Kind(
        flood(DISCO, 1_000),
        20,
        needs_session=True,
        bound=STANZAS,
        sustained=spent(DISCO, SPENT),
        stanzas=SPENT,
    ),
}
