# SPDX-License-Identifier: Apache-2.0
"""An external component (XEP-0114): a peer that may send anything from its domain.

Tests use it as the other side of a subscription or a conversation whose server has no
state of its own, so that every row of a table can be reached.
"""

from __future__ import annotations

import hashlib

from . import ns
from .client import Client
from .endpoint import Endpoint
from .server import COMPONENT_SECRET, Server
from .xml import Element, parse


class Component(Client):
    """One component connection; `jid` is its domain."""

    def __init__(self, server: Server, domain: str | None = None) -> None:
        name = domain or server.component_domain
        super().__init__(
            Endpoint(
                name,
                server.address,
                server.front(server.ports.component),
                "plain",
                torn=server.torn,
            ),
            None,
            name,
        )
        self.jid = name

    def open_header(self, **attrs: object) -> None:
        """Writes the header of XEP-0114, example 1."""
        to = attrs.get("to", self.host)
        self.send_raw(
            f"<stream:stream xmlns='{ns.COMPONENT}' xmlns:stream='{ns.STREAM}' to='{to}'>"
        )

    async def open_stream(self, **attrs: object) -> Element:
        """Opens the stream and returns the server's header, which has no features behind it."""
        self.restart()
        self.open_header(**attrs)
        await self.wait_for(lambda: self.header is not None or self.eof, 8, "stream header")
        assert self.header is not None, "closed without a header"
        return self.header

    async def handshake_with(self, secret: str) -> Element:
        """Proves the secret; the server's answer."""
        assert self.header is not None
        proof = hashlib.sha1(f"{self.header.id}{secret}".encode()).hexdigest()
        self.send_raw(f"<handshake>{proof}</handshake>")
        return await self.expect("handshake")

    async def login(self, resource: str | None = None) -> Component:
        """Connects and authenticates with the secret of the tests."""
        await self.connect()
        await self.open_stream()
        await self.handshake_with(COMPONENT_SECRET)
        return self

    def _on_element(self, element: Element) -> None:
        if element.ns == ns.COMPONENT:
            element = parse(element.xml().replace(ns.COMPONENT, ns.CLIENT))
        super()._on_element(element)

    def address(self, user: str, resource: str = "") -> str:
        """An address at the component's domain."""
        return f"{user}@{self.host}" + (f"/{resource}" if resource else "")

    async def sync(self) -> None:
        """Waits until the server has handled what we sent, by a ping from our domain."""
        from_ = self.address("sync")
        self.send_raw(
            f"<iq type='get' id='{self.next_id()}' from='{from_}' to='{self.parent_domain}'>"
            f"<ping xmlns='{ns.PING}'/></iq>"
        )
        await self.expect("iq", to=from_)

    @property
    def parent_domain(self) -> str:
        """The server's own domain."""
        return self.host.partition(".")[2]
