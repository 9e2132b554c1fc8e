# SPDX-License-Identifier: Apache-2.0
"""The two ways bytes travel: TCP with or without TLS, and WebSocket (RFC 7395)."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import Protocol

import websockets.asyncio.client as ws_client
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from .endpoint import Endpoint
from .proxy import pieces


class Sink(Protocol):
    """Who is told what arrives."""

    def bytes_in(self, octets: bytes) -> None:
        """Bytes of a TCP stream."""

    def frame_in(self, text: str) -> None:
        """One WebSocket message."""

    def lost(self, reason: str) -> None:
        """The connection is gone."""


class Transport(Protocol):
    """An open connection."""

    def write(self, data: str | bytes) -> None:
        """Sends bytes, or one message."""

    def abort(self) -> None:
        """Drops the connection at once."""

    def certificate(self) -> bytes:
        """The server's certificate (DER)."""


class TcpTransport(asyncio.Protocol):
    """TCP; TLS from the start or later."""

    def __init__(self, sink: Sink, torn: int | None = None) -> None:
        self._sink = sink
        self._dice = None if torn is None else random.Random(torn)
        self._transport: asyncio.Transport | None = None
        self._reported = False

    @classmethod
    async def open(cls, endpoint: Endpoint, tls: ssl.SSLContext | None, sink: Sink) -> TcpTransport:
        """Connects; with `tls` the handshake comes first (XEP-0368)."""
        loop = asyncio.get_running_loop()
        name = (endpoint.sni or endpoint.domain) if tls is not None else None
        _, protocol = await loop.create_connection(
            lambda: cls(sink, endpoint.torn),
            endpoint.host,
            endpoint.port,
            ssl=tls,
            server_hostname=name,
        )
        return protocol

    async def start_tls(self, tls: ssl.SSLContext, name: str) -> None:
        """Puts TLS around the connection as it is."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(self._transport, self, tls, server_hostname=name)
        assert secured is not None
        self._transport = secured

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        self._sink.bytes_in(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        if not self._reported:
            self._reported = True
            self._sink.lost(str(exc or ""))

    def write(self, data: str | bytes) -> None:
        """Sends text as UTF-8, or bytes."""
        assert self._transport is not None
        octets = data.encode() if isinstance(data, str) else data
        if self._dice is None:
            self._transport.write(octets)
            return
        for piece in pieces(octets, self._dice):
            self._transport.write(piece)

    def pause_reading(self) -> None:
        """Stops taking bytes, so that the server's buffers fill."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes bytes again."""
        assert self._transport is not None
        self._transport.resume_reading()

    def abort(self) -> None:
        """Drops the connection without TLS or TCP courtesy."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """The TLS session, `None` in clear."""
        assert self._transport is not None
        found: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return found

    def certificate(self) -> bytes:
        """The server's leaf certificate."""
        tls = self.ssl_object
        assert tls is not None, "no TLS on this connection"
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return der


class WebSocketTransport:
    """A WebSocket with the sub-protocol `xmpp`."""

    def __init__(self, socket: ws_client.ClientConnection, sink: Sink) -> None:
        self._socket = socket
        self._sink = sink
        self._outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    @classmethod
    async def open(cls, url: str, tls: ssl.SSLContext, sink: Sink) -> WebSocketTransport:
        """Connects and upgrades; fails unless the server chooses `xmpp` (RFC 7395 §3.1)."""
        socket = await ws_client.connect(
            url,
            ssl=tls if url.startswith("wss:") else None,
            subprotocols=[Subprotocol("xmpp")],
            compression=None,
            max_size=None,
            proxy=None,
        )
        assert socket.subprotocol == "xmpp", f"sub-protocol is {socket.subprotocol}"
        return cls(socket, sink)

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                assert isinstance(frame, str), "a binary message (RFC 7395 §3.2)"
                self._sink.frame_in(frame)
        except (ConnectionClosed, OSError):
            pass
        finally:
            code, reason = self._socket.close_code, self._socket.close_reason
            self._sink.lost(f"{code} {reason or ''}".strip())

    async def _write(self) -> None:
        try:
            while True:
                await self._socket.send(await self._outgoing.get())
        except (ConnectionClosed, OSError):
            pass

    def write(self, data: str | bytes) -> None:
        """Sends one text message (`str`) or one binary message (`bytes`)."""
        self._outgoing.put_nowait(data)

    def abort(self) -> None:
        """Drops the TCP connection under the WebSocket."""
        self._socket.transport.abort()
        for task in self._tasks:
            task.cancel()

    def certificate(self) -> bytes:
        """The server's leaf certificate."""
        tls = self._socket.transport.get_extra_info("ssl_object")
        der: bytes = tls.getpeercert(binary_form=True)
        return der
