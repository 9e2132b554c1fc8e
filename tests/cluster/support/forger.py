# SPDX-License-Identifier: Apache-2.0
"""Speaks to a node's relay port as a node does (proto/antiphon/v1/cluster.proto), and says what is asked.

Its own writing of the wire format, so that it can say what no node would. Answers are read as far as
the tests look at them.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from support.certs import KeyPair

from .node import CLUSTER, LINKS, Node

ANSWER_S = 5.0
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
HELLO, FRAME = 1, 2
WELCOME, WORDS, BYE = 1, 2, 4
"""Kinds of messages, as `ToReceiver` and `ToSender` number them."""
CERTIFICATE, PROTOCOL, STALE, BREACH = 3, 2, 6, 7
"""Reasons of a refusal."""
ROUTE = 2
"""The unit that brings a stanza to the home of its addressee (rust/node/src/mesh/unit.rs)."""


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sized(octets: bytes) -> bytes:
    return number(len(octets)) + octets


def _message(fields: dict[int, int | str | bytes]) -> bytes:
    """A message of protobuf."""
    out = b""
    for tag, value in fields.items():
        if isinstance(value, int):
            out += number(tag << 3) + number(value)
        else:
            octets = value.encode() if isinstance(value, str) else value
            out += number(tag << 3 | 2) + _sized(octets)
    return out


def _read(octets: bytes) -> dict[int, int | bytes]:
    """The fields of a message, of each the last."""
    found: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = octets[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(octets):
        tag = varint()
        value = varint()
        if tag & 7 == 2:
            found[tag >> 3] = octets[at : at + value]
            at += value
        else:
            found[tag >> 3] = value
    return found


def route(shard: int, frm: str, to: str, id_: str) -> bytes:
    """A headline without content, on its way to the home of `to`."""
    texts = b"".join(_sized(text.encode()) for text in (frm, to, "headline", id_))
    return bytes([ROUTE, *shard.to_bytes(2, "little"), 0, 0, 0, 0, 0, 0b1111]) + texts


@dataclass(frozen=True)
class Answer:
    """What a node said to a hello, or at the end of a stream."""

    refused: str = ""
    reason: int = 0
    connection: int = 0
    received: int = 0


@dataclass
class Forger:
    """Somebody with a certificate, true or not, at the relay port of `target`."""

    target: Node
    identity: KeyPair
    node: str
    """The name that it gives."""
    life: int
    expects_life: int
    protocol: int = 1
    _out: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)
    _channel: grpc.Channel | None = None
    _answers: Iterator[bytes] | None = None

    def hello(self) -> bytes:
        """The first words of a stream, or a probe."""
        return _message(
            {
                1: CLUSTER,
                2: self.protocol,
                3: self.node,
                4: self.life,
                5: time.time_ns() // 1_000_000,
                6: "9.9.9",
                7: self.target.name,
                8: self.expects_life,
            }
        )

    def _dial(self) -> grpc.Channel:
        tls = self.target.wiring.ca, self.identity.key, self.identity.certificate
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in tls))
        options = [*OPTIONS, ("grpc.ssl_target_name_override", self.target.name)]
        address = f"{self.target.place.address}:{LINKS}"
        return grpc.secure_channel(address, credentials, options)

    def probe(self) -> Answer:
        """What a node that looks around is told."""
        with self._dial() as channel:
            call = channel.unary_unary("/antiphon.v1.Relay/Probe")
            return _answer(_read(call(self.hello(), timeout=ANSWER_S)))

    def open(self) -> Answer:
        """Begins a stream of stanzas; what it is told."""
        self._channel = self._dial()
        call = self._channel.stream_stream("/antiphon.v1.Relay/Stanzas")
        self._out.put(_message({HELLO: self.hello()}))
        self._answers = iter(call(iter(self._out.get, None), timeout=60))
        return self._next(WELCOME)

    def say(self, connection: int, first: int, *units: bytes, epoch: int = 1) -> None:
        """Sends a frame; one that was refused says it all the same."""
        packed = b"".join(_sized(unit) for unit in units)
        self.say_raw(connection, first, len(units), packed, epoch=epoch)

    def say_raw(
        self, connection: int, first: int, n: int, packed: bytes, *, epoch: int = 1
    ) -> None:
        """Sends a frame whose bytes need not fit its words."""
        frame = _message({1: connection, 2: first, 3: n, 4: packed, 6: epoch})
        self._out.put(_message({FRAME: frame}))

    def bye(self) -> Answer:
        """Waits for the end of the stream, and why it came."""
        return self._next(BYE)

    def _next(self, kind: int) -> Answer:
        assert self._answers is not None, "no stream is open"
        for octets in self._answers:
            found = _read(octets)
            inner = found.get(kind)
            if isinstance(inner, bytes):
                return _answer(_read(inner), is_bye=kind == BYE)
        raise AssertionError("the stream ended without a word")

    def close(self) -> None:
        """Ends it."""
        self._out.put(None)
        if self._channel is not None:
            with suppress(grpc.RpcError):
                self._channel.close()


def _answer(found: dict[int, int | bytes], *, is_bye: bool = False) -> Answer:
    text, reason = (
        (found.get(2, b""), found.get(1, 0)) if is_bye else (found.get(1, b""), found.get(2, 0))
    )
    words = found.get(9, b"") if not is_bye else b""
    inner = _read(words) if isinstance(words, bytes) else {}
    return Answer(
        text.decode() if isinstance(text, bytes) else "",
        reason if isinstance(reason, int) else 0,
        _whole(inner.get(1, 0)),
        _whole(inner.get(2, 0)),
    )


def _whole(value: int | bytes) -> int:
    return value if isinstance(value, int) else 0
