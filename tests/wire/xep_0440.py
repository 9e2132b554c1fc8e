# SPDX-License-Identifier: Apache-2.0
"""XEP-0440 SASL Channel-Binding Type Capability."""

from __future__ import annotations

import ssl

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server

pytestmark = pytest.mark.ours("XEP-0440 came later than Prosody 0.12")


def types(client: Client) -> set[str | None]:
    """The channel binding types that are announced."""
    offered = client.features.child("sasl-channel-binding", ns.SASL_CB)
    return set() if offered is None else {c.get("type") for c in offered.all("channel-binding")}


@pytest.mark.parametrize("kind", ["starttls", "direct"])
async def test_types_are_announced_beside_the_mechanisms(clients: Clients, kind: str) -> None:
    # XEP-0440, example 1; #rules: tls-server-end-point has to be there
    client = await clients.stream(kind)
    assert types(client) == {"tls-exporter", "tls-server-end-point"}
    assert [m for m in client.mechanisms if m.endswith("-PLUS")]


async def test_nothing_is_announced_before_tls(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    await client.open_stream()
    assert types(client) == set()


async def test_nothing_is_announced_over_websocket(clients: Clients) -> None:
    client = await clients.stream("wss")
    assert types(client) == set()


async def test_nothing_is_announced_after_login(clients: Clients) -> None:
    client = await clients.authenticated()
    assert types(client) == set()


async def test_tls_1_2_announces_only_what_it_can_do(server: Server) -> None:
    # RFC 9266 §4.2: tls-exporter on TLS 1.2 needs the extended master secret, which
    # OpenSSL negotiates, so both types are there
    client = Client(server.endpoint(), server.account())
    context = client.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client.tls = lambda: context  # type: ignore[method-assign]
    await client.negotiate()
    assert "tls-server-end-point" in types(client)
    await client.authenticate("SCRAM-SHA-256-PLUS")
    client.abort()
