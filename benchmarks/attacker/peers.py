# SPDX-License-Identifier: Apache-2.0
"""The attacker's connections: blocking sockets, bytes made before, TLS and logins as needed."""

from __future__ import annotations

import socket
import ssl
from base64 import b64decode, b64encode
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from support import ns
from support.antiphon import Antiphon
from support.certs import Authority
from support.hostile import header, resident_kb
from support.sasl import Scram, plain

ADDRESS = "127.0.0.1"
ANSWER_S = 30.0
MOST_KEPT = 150
"""Connections that one process keeps open: the limits of an address allow some more."""


class Peer:
    """A connection of the attacker: blocking, with TLS or without."""

    def __init__(self, stage: Stage, port: int, *, tls: bool = False) -> None:
        sock = socket.create_connection((ADDRESS, port), ANSWER_S)
        self.sock: socket.socket = sock
        if tls:
            try:
                self.sock = stage.context.wrap_socket(sock, server_hostname=stage.domain)
            except OSError:
                sock.close()
                raise
        self.stage = stage
        self.jid = ""

    def send(self, octets: bytes) -> None:
        """All of it, counted."""
        self.sock.sendall(octets)
        self.stage.sent += len(octets)

    def until(self, mark: bytes) -> bytes:
        """Reads until this has come; ConnectionError if the node closes before."""
        got = bytearray()
        looked = 0
        while got.find(mark, looked) < 0:
            looked = max(0, len(got) - len(mark))
            piece = self.sock.recv(65_536)
            if not piece:
                self.sock.close()
                raise ConnectionError(f"closed after {bytes(got[-300:])!r}")
            got += piece
        return bytes(got)

    def answer(self) -> bytes:
        """What comes first; ConnectionError if the node closes instead."""
        got = self.sock.recv(65_536)
        if not got:
            self.sock.close()
            raise ConnectionError("closed without an answer")
        return got

    def open(self) -> None:
        """A stream, up to its features."""
        self.send(self.stage.header)
        self.until(b"</stream:features>")

    def log_in(self, user: str, password: str) -> None:
        """By PLAIN: the node remembers the proof, as it does of any client that comes back."""
        proof = b64encode(plain(user, password)).decode()
        self.send(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{proof}</auth>".encode())
        self.until(b"<success")

    def prove(self, user: str, password: str) -> None:
        """By SCRAM, with the salted password kept from the last time, as clients do."""
        scram = Scram("SCRAM-SHA-256", user, password)
        first = b64encode(scram.first()).decode()
        self.send(f"<auth xmlns='{ns.SASL}' mechanism='SCRAM-SHA-256'>{first}</auth>".encode())
        challenge = self.until(b"</challenge>").partition(b"</challenge>")[0].rpartition(b">")[2]
        final = b64encode(scram.final(b64decode(challenge))).decode()
        self.send(f"<response xmlns='{ns.SASL}'>{final}</response>".encode())
        self.until(b"</success>")

    def session(self) -> Peer:
        """Login, bind, roster, presence, each time as another user."""
        user, password = self.stage.next_account()
        self.open()
        (self.prove if self.stage.is_scram else self.log_in)(user, password)
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
    is_scram: bool = False
    """How sessions log in: by PLAIN where only what follows is measured."""
    is_secure: bool = False
    """Whether logins need TLS, as they do by default."""
    kept: deque[Peer] = field(default_factory=deque)
    most_kept: int = 0
    """Beyond it the oldest is closed; 0: none is."""
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

    @classmethod
    def on(cls, server: Antiphon, authority: Authority, accounts: int) -> Stage:
        """With so many accounts made on a running node."""
        made = [server.account() for _ in range(accounts)]
        context = ssl.create_default_context(cafile=str(authority.ca))
        return cls(server, [(account.user, account.password) for account in made], context)

    def next_account(self) -> tuple[str, str]:
        """One after another, round and round."""
        self.accounts.append(self.accounts.pop(0))
        return self.accounts[-1]

    def tcp(self) -> Peer:
        """To the listener with STARTTLS."""
        return self.keep(Peer(self, self.server.ports.c2s))

    def direct(self, *, tls: bool = True) -> Peer:
        """To the listener with direct TLS."""
        return self.keep(self.passing(tls=tls))

    def passing(self, *, tls: bool = True) -> Peer:
        """The same, not kept."""
        return Peer(self, self.server.ports.direct, tls=tls)

    def for_login(self) -> Peer:
        """Where a login may begin, not kept: the listener without TLS if the node allows that."""
        return self.passing() if self.is_secure else Peer(self, self.server.ports.plain)

    def keep(self, peer: Peer) -> Peer:
        """It stays open."""
        self.kept.append(peer)
        if self.most_kept and len(self.kept) > self.most_kept:
            self.kept.popleft().sock.close()
        return peer

    def prepared(self) -> Peer:
        """A session that was made before, or one made now."""
        return self.ready.pop() if self.ready else self.direct().session()

    def look(self) -> None:
        """Notes the memory if it is the most so far."""
        self.peak_kb = max(self.peak_kb, resident_kb(self.server))
