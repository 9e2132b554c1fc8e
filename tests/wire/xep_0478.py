# SPDX-License-Identifier: Apache-2.0
"""XEP-0478 Stream Limits Advertisement: what a peer may send, told in advance."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import message

pytestmark = pytest.mark.ours("XEP-0478 came later than Prosody 0.12")


def limit(client: Client, name: str) -> int | None:
    """The number in `<limits/>` of the last features."""
    limits = client.features.child("limits", ns.STREAM_LIMITS)
    found = limits.child(name) if limits is not None else None
    return None if found is None else int(found.text)


@pytest.mark.parametrize("kind", ["starttls", "direct", "wss"])
async def test_limits_are_announced_before_and_after_login(clients: Clients, kind: str) -> None:
    # XEP-0478 #announcing, example 1; the numbers of the default configuration
    client = await clients.stream(kind)
    assert limit(client, "max-bytes") == 10_000
    await client.authenticate()
    assert limit(client, "max-bytes") == 262_144
    assert (limit(client, "idle-seconds") or 0) > 0


@pytest.mark.settings(limits={"stanza_bytes": 12_000})
async def test_configured_limit_is_announced_and_kept(clients: Clients) -> None:
    client = await clients.online()
    assert limit(client, "max-bytes") == 12_000
    frame = len(message(client.jid, "").xml(ns.CLIENT)) + len("<body></body>")
    fits = message(client.jid, "x" * (12_000 - frame))
    size = len(fits.xml(ns.CLIENT))
    assert 11_900 < size <= 12_000
    client.send(fits)
    await client.expect("message")
    client.send(message(client.jid, "x" * 12_001))
    await client.expect_stream_error("policy-violation")
