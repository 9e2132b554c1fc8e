# SPDX-License-Identifier: Apache-2.0
"""A client's connection and stream: TCP with STARTTLS, direct TLS or WebSocket, nothing automatic.

It reads with expat, writes what it is told, and keeps all that went over the wire for the
report of a failed test. Received elements wait in `inbox` until a test takes them.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.parsers import expat

from . import ns
from .certs import KeyPair
from .endpoint import Account, Endpoint
from .transport import TcpTransport, Transport, WebSocketTransport
from .xml import E, Element, Reader, parse

TIMEOUT_S = 8.0
Matcher = Callable[[Element], bool]

LIVE: list[StreamClient] = []
"""Every client made since the running test began; the report of a failure prints their logs."""


class StreamClosed(AssertionError):
    """The server ended the stream or the connection while a test waited for something."""


class StreamFailed(StreamClosed):
    """The server sent a stream error; `condition` names it."""

    def __init__(self, error: Element) -> None:
        self.error = error
        self.condition = error.condition
        super().__init__(f"stream error {self.condition}: {error}")


@dataclass
class SmState:
    """What a client counts for XEP-0198."""

    id: str | None = None
    max: int | None = None
    received: int = 0
    sent: int = 0
    acked: int = 0
    unacked: list[Element] = field(default_factory=list)


class StreamClient:
    """One connection. Everything that waits has a timeout and fails the test when it passes."""

    _numbers = itertools.count(1)
    _entries = itertools.count(1)

    def __init__(self, endpoint: Endpoint, account: Account | None = None, name: str = "") -> None:
        self.endpoint = endpoint
        self.account = account
        self.name = name or (account.user if account else f"c{next(self._numbers)}")
        self.jid = account.jid if account else ""
        self.inbox: list[Element] = []
        self.log: list[tuple[int, str]] = []
        self.header: Element | None = None
        self.headers: list[Element] = []
        self.features = E("features", ns.STREAM)
        self.closed_stream = False
        self.eof = False
        self.bytes_received = 0
        self.auto_ack = False
        self.sm: SmState | None = None
        self.identity: KeyPair | None = None
        self.last_sasl = E("none", "")
        self._arrived = asyncio.Event()
        self._ids = itertools.count(1)
        self._reader = self._fresh_reader()
        self._transport: Transport | None = None
        self._t0 = time.monotonic()
        LIVE.append(self)

    # -- who we are ------------------------------------------------------
    @property
    def host(self) -> str:
        """The server's domain."""
        return self.endpoint.domain

    @property
    def bare(self) -> str:
        """Our bare JID."""
        return self.jid.partition("/")[0]

    @property
    def resource(self) -> str:
        """The bound resource."""
        return self.jid.partition("/")[2]

    @property
    def user(self) -> str:
        """Our localpart."""
        return self.jid.partition("@")[0]

    # -- transport -------------------------------------------------------
    @property
    def transport(self) -> Transport:
        """The connection; fails when there is none."""
        assert self._transport is not None, "not connected"
        return self._transport

    async def connect(self) -> None:
        """Opens the connection, with TLS where it is the first thing; sends no stream header."""
        if self.endpoint.kind == "ws":
            self._transport = await WebSocketTransport.open(self.endpoint.url, self.tls(), self)
        else:
            direct = self.endpoint.kind == "direct"
            self._transport = await TcpTransport.open(
                self.endpoint, self.tls() if direct else None, self
            )

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the server's certificate authority."""
        context = ssl.create_default_context(cafile=self.endpoint.ca)
        if self.endpoint.ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.identity is not None:
            context.load_cert_chain(self.identity.certificate, self.identity.key)
        if self.endpoint.kind == "direct" and self.endpoint.alpn:
            context.set_alpn_protocols(list(self.endpoint.alpn))
        return context

    def _fresh_reader(self) -> Reader:
        return Reader(self._on_open, self._on_element, self._on_close)

    def bytes_in(self, octets: bytes) -> None:
        """What the transport calls with bytes of the stream."""
        self.bytes_received += len(octets)
        self._note("<<", octets.decode(errors="backslashreplace"))
        try:
            self._reader.feed(octets)
        except expat.ExpatError as error:
            self._note("!!", f"the server's XML does not parse: {error}")
            self.eof = True
        self._arrived.set()

    def frame_in(self, text: str) -> None:
        """What the transport calls with one WebSocket message (RFC 7395 §3.3)."""
        self.bytes_received += len(text)
        self._note("<<", text)
        element = parse(text)
        if element.tag == ("open", ns.FRAMING):
            self._on_open(element)
        elif element.tag == ("close", ns.FRAMING):
            self._on_close()
        else:
            self._on_element(element)
        self._arrived.set()

    def lost(self, reason: str) -> None:
        """What the transport calls once when the connection is gone."""
        self._note("<<", f"[connection closed{': ' + reason if reason else ''}]")
        self.eof = True
        self._arrived.set()

    def _on_open(self, header: Element) -> None:
        self.header = header
        self.headers.append(header)

    def _on_close(self) -> None:
        self.closed_stream = True

    def _on_element(self, element: Element) -> None:
        if self.sm is not None and element.ns == ns.CLIENT:
            self.sm.received += 1
        if element.ns == ns.SM and self.sm is not None:
            if element.name == "r" and self.auto_ack:
                self.send(E("a", ns.SM, h=self.sm.received))
                return
            if element.name == "enabled":
                self.sm.received = 0
            if element.name == "a":
                self.sm.acked = int(element.get("h") or 0)
        if element.tag == ("features", ns.STREAM):
            self.features = element
        self.inbox.append(element)

    def _note(self, way: str, text: str) -> None:
        elapsed = time.monotonic() - LIVE[0]._t0 if LIVE else 0.0
        self.log.append(
            (next(StreamClient._entries), f"{elapsed:8.3f} {self.name} {way} {text[:4000]}")
        )

    # -- writing ---------------------------------------------------------
    def send(self, element: Element) -> str:
        """Writes an element as it is (an IQ gets an id if it has none); returns its id."""
        if element.ns == "":
            element = E(element.name, ns.CLIENT, *element.children, **element.attrs)
        if element.name == "iq" and "id" not in element.attrs:
            element.attrs["id"] = self.next_id()
        framed = self.endpoint.kind == "ws"
        if self.sm is not None and element.ns == ns.CLIENT:
            self.sm.sent += 1
        self.send_raw(element.xml(None if framed else ns.CLIENT))
        return element.get("id") or ""

    def send_raw(self, data: str | bytes) -> None:
        """Writes text or bytes untouched; on WebSocket one message."""
        text = data if isinstance(data, str) else data.decode(errors="backslashreplace")
        self._note(">>", text)
        self.transport.write(data)

    def next_id(self) -> str:
        """An id not used on this connection."""
        return f"{self.name}-{next(self._ids)}"

    # -- waiting ---------------------------------------------------------
    async def wait_for(self, test: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Waits until `test()` holds, looking again after everything that arrives."""
        deadline = time.monotonic() + timeout_s
        while not test():
            left = deadline - time.monotonic()
            assert left > 0, f"{self.name}: no {what} within {timeout_s} s; have {self.inbox}"
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                continue

    def _take(self, match: Matcher) -> Element | None:
        for i, element in enumerate(self.inbox):
            if match(element):
                return self.inbox.pop(i)
        return None

    async def expect(
        self, match: Matcher | str | None = None, *, timeout_s: float = TIMEOUT_S, **attrs: object
    ) -> Element:
        """Takes the first element that fits, earlier ones that do not stay where they are.

        `match`: an element name, or a predicate. `attrs`: attributes that must be equal
        (`from_`, `type` …; `None`: absent). A stream error or the end of the stream fails it.
        """
        fits = matcher(match, attrs)
        found: list[Element] = []

        def look() -> bool:
            element = self._take(fits)
            if element is not None:
                found.append(element)
                return True
            for other in self.inbox:
                if other.tag == ("error", ns.STREAM):
                    raise StreamFailed(other)
            if self.closed_stream or self.eof:
                raise StreamClosed(f"{self.name}: stream ended; waited for {match} {attrs}")
            return False

        await self.wait_for(look, timeout_s, f"{match or 'element'} {attrs or ''}")
        return found[0]

    async def next(self, *, timeout_s: float = TIMEOUT_S) -> Element:
        """Takes the very next element, whatever it is."""
        return await self.expect(lambda _: True, timeout_s=timeout_s)

    async def expect_stream_error(self, *conditions: str, timeout_s: float = TIMEOUT_S) -> Element:
        """Waits for a stream error of one of these conditions and for the end (RFC 6120 §4.9.1.1)."""
        error = await self.expect(lambda e: e.tag == ("error", ns.STREAM), timeout_s=timeout_s)
        assert error.condition in conditions, (
            f"{error.condition} is not one of {conditions}: {error}"
        )
        await self.expect_end(timeout_s=timeout_s)
        return error

    async def expect_end(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Waits until the server has closed its stream (or the connection)."""
        await self.wait_for(lambda: self.closed_stream or self.eof, timeout_s, "end of stream")

    async def expect_eof(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Waits until the connection is gone."""
        await self.wait_for(lambda: self.eof, timeout_s, "end of connection")

    def drain(self) -> list[Element]:
        """Takes all that has arrived."""
        taken, self.inbox = self.inbox, []
        return taken

    # -- stream ----------------------------------------------------------
    def open_header(self, **attrs: object) -> None:
        """Writes a stream header (`<open/>` on WebSocket); `None` leaves an attribute out."""
        values: dict[str, object] = {"to": self.host, "version": "1.0", "xml_lang": "en", **attrs}
        if self.endpoint.kind == "ws":
            self.send_raw(E("open", ns.FRAMING, **values).xml())
            return
        written = E("stream", ns.CLIENT, **values).attrs
        text = "".join(f' {k}="{v}"' for k, v in written.items())
        self.send_raw(
            f"<?xml version='1.0'?><stream:stream xmlns='{ns.CLIENT}' "
            f"xmlns:stream='{ns.STREAM}'{text}>"
        )

    def restart(self) -> None:
        """Forgets the state of the old stream (RFC 6120 §4.3.3)."""
        self._reader = self._fresh_reader()
        self.header = None

    async def open_stream(self, **attrs: object) -> Element:
        """Opens a stream and waits for the features."""
        self.restart()
        self.open_header(**attrs)
        return await self.expect(lambda e: e.tag == ("features", ns.STREAM))

    async def starttls(self) -> None:
        """Negotiates TLS and opens the stream anew (RFC 6120 §5.4)."""
        self.send(E("starttls", ns.TLS))
        await self.expect("proceed")
        await self.handshake()
        await self.open_stream()

    async def handshake(self) -> None:
        """The TLS handshake alone, after `<proceed/>`."""
        transport = self.transport
        assert isinstance(transport, TcpTransport)
        self.restart()
        # asyncio waits for ever where the connection goes away just before.
        starting = transport.start_tls(self.tls(), self.endpoint.sni or self.host)
        await asyncio.wait_for(starting, TIMEOUT_S)

    async def close(self) -> None:
        """Closes the stream as RFC 6120 §4.4 asks, then the connection; never fails."""
        if self._transport is None:
            return
        if not self.eof:
            try:
                if not self.closed_stream:
                    framed = self.endpoint.kind == "ws"
                    self.send_raw(
                        f"<close xmlns='{ns.FRAMING}'/>" if framed else "</stream:stream>"
                    )
                    await self.expect_end(timeout_s=2)
            except (AssertionError, OSError):
                pass
        self.abort()

    def abort(self) -> None:
        """Cuts the connection without a word, as a lost network does."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Reads nothing any more, as a client does that has gone silent."""
        transport = self.transport
        assert isinstance(transport, TcpTransport)
        transport.pause_reading()


def matcher(match: Matcher | str | None, attrs: dict[str, object]) -> Matcher:
    """A predicate from a name or predicate and from attribute values."""
    wanted = {k.rstrip("_"): v for k, v in attrs.items()}

    def fits(e: Element) -> bool:
        if isinstance(match, str):
            if e.name != match:
                return False
        elif match is not None and not match(e):
            return False
        return all(e.get(k) == v for k, v in wanted.items())

    return fits
