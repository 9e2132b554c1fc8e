# SPDX-License-Identifier: Apache-2.0
"""RFC 7395: XMPP over WebSocket, its framing and its handshake."""

from __future__ import annotations

import asyncio

import pytest
import websockets.asyncio.client as ws_client
from websockets.exceptions import InvalidHandshake
from websockets.typing import Subprotocol

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, message

KINDS = ["ws", "wss"]


async def opened(clients: Clients, kind: str = "wss") -> Client:
    """A WebSocket on which the stream is open."""
    client = clients.raw(kind)
    await client.connect()
    await client.open_stream()
    return client


# -- handshake (RFC 7395 §3.1) -----------------------------------------------------


async def test_sub_protocol_xmpp_is_chosen(clients: Clients) -> None:
    client = clients.raw("wss")
    await client.connect()


async def test_of_several_sub_protocols_xmpp_is_chosen(clients: Clients) -> None:
    raw = clients.raw("wss")
    async with ws_client.connect(
        raw.endpoint.url,
        ssl=raw.tls(),
        subprotocols=[Subprotocol("chat"), Subprotocol("xmpp")],
        proxy=None,
    ) as socket:
        assert socket.subprotocol == "xmpp"


@pytest.mark.parametrize("offer", [None, [Subprotocol("chat")]], ids=["none", "other"])
async def test_without_xmpp_the_sub_protocol_is_not_chosen(
    clients: Clients, offer: list[Subprotocol] | None
) -> None:
    # RFC 7395 §3.1: the client closes; the server must not speak XMPP unasked
    raw = clients.raw("wss")
    try:
        async with ws_client.connect(
            raw.endpoint.url, ssl=raw.tls(), subprotocols=offer, proxy=None
        ) as socket:
            assert socket.subprotocol is None
    except InvalidHandshake:
        pass


# -- open and close (RFC 7395 §3.3, §3.4, §3.6) -------------------------------------


async def test_open_is_answered_with_open(clients: Clients) -> None:
    # RFC 7395 §3.4, example
    client = await opened(clients)
    header = client.header
    assert header is not None
    assert header.tag == ("open", ns.FRAMING)
    assert (header.frm, header.get("version")) == (client.host, "1.0")
    assert header.id
    assert header.get("xml:lang")


async def test_restart_after_login_is_a_new_open(clients: Clients) -> None:
    # RFC 7395 §3.7: no <close/> before it
    client = await clients.stream("wss")
    await client.authenticate()
    assert len({h.id for h in client.headers}) == 2
    assert client.features.has("bind", ns.BIND)


async def test_starttls_is_neither_offered_nor_accepted(clients: Clients) -> None:
    # RFC 7395 §3.9
    client = await opened(clients)
    assert not client.features.has("starttls", ns.TLS)
    client.send(E("starttls", ns.TLS))
    answer = await client.next()
    assert answer.name in ("error", "failure")


async def test_close_is_answered_with_close(clients: Clients) -> None:
    # RFC 7395 §3.6
    client = await clients.bound(kind="wss")
    client.send_raw(f"<close xmlns='{ns.FRAMING}'/>")
    await client.expect_end()
    assert client.closed_stream
    await client.expect_eof()


async def test_unknown_host_is_an_error_and_a_close(clients: Clients) -> None:
    # RFC 7395 §3.5: <open/>, the error in a message of its own, <close/>
    client = clients.raw("wss")
    await client.connect()
    client.open_header(to="unknown.invalid")
    await client.expect_stream_error("host-unknown")
    assert client.header is not None


async def test_stream_error_declares_its_namespaces(clients: Clients) -> None:
    client = await clients.bound(kind="wss")
    client.send_raw("<foo xmlns='urn:example:foo'/>")
    error = await client.expect_stream_error("unsupported-stanza-type", "invalid-namespace")
    assert error.tag == ("error", ns.STREAM)


# -- framing (RFC 7395 §3.3) ---------------------------------------------------------


async def test_stanzas_declare_their_namespace(clients: Clients, romeo: Client) -> None:
    # RFC 7395 §3.3.3: a stanza that came over TCP has inherited its own
    web = await clients.online(kind="wss")
    romeo.send(message(web.jid, "over the border"))
    got = await web.expect("message")
    assert got.ns == ns.CLIENT
    assert got.body == "over the border"


async def test_payload_crosses_between_transports_whole(clients: Clients, romeo: Client) -> None:
    web = await clients.online(kind="wss")
    payload = E("x", "urn:a", E("y", "urn:b", " t "), E("z", "jabber:client"), q="<'\">")
    for a, b in ((romeo, web), (web, romeo)):
        a.send(message(b.jid, payload))
        got = await b.expect("message")
        assert got.at(("x", "urn:a")).canonical() == payload.canonical()


BAD_FRAMES = {
    "open tag only": "<message xmlns='jabber:client'>",
    "two elements": "<presence xmlns='jabber:client'/><presence xmlns='jabber:client'/>",
    "text": "hello",
    "xml declaration": "<?xml version='1.0'?><presence xmlns='jabber:client'/>",
    "comment": "<!-- c -->",
    "doctype": "<!DOCTYPE a [<!ENTITY b 'c'>]><presence xmlns='jabber:client'/>",
    "leading text": "x<presence xmlns='jabber:client'/>",
    "stream header": "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' to='x'>",
    "undeclared prefix": "<stream:error/>",
}


@pytest.mark.deviates(prosody="is lenient in some of them")
@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_bad_frame_ends_the_stream(clients: Clients, frame: str) -> None:
    client = await clients.bound(kind="wss")
    client.send_raw(frame)
    await client.expect_stream_error(
        "not-well-formed", "bad-format", "restricted-xml", "invalid-xml", "invalid-namespace"
    )


async def test_entity_bomb_before_login_is_refused(clients: Clients) -> None:
    # attack 1: CVE-2022-0217 was Prosody's, through WebSocket
    client = clients.raw("wss")
    await client.connect()
    client.send_raw(
        f"<!DOCTYPE a [<!ENTITY b 'cc'>]><open xmlns='{ns.FRAMING}' to='{client.host}'>&b;</open>"
    )
    await client.expect_end()
    await client.expect_eof()


async def test_binary_message_ends_the_connection(clients: Clients) -> None:
    # RFC 7395 §3.2: text only
    client = await clients.bound(kind="wss")
    client.send_raw(b"<presence xmlns='jabber:client'/>")
    await client.expect_eof()


@pytest.mark.ours("the name for a missing namespace")
async def test_stanza_without_namespace_is_refused(clients: Clients) -> None:
    # RFC 7395 §3.3.3: nothing is inherited from a stream header
    client = await clients.bound(kind="wss")
    client.send_raw("<presence/>")
    await client.expect_stream_error(
        "invalid-namespace", "unsupported-stanza-type", "bad-format", "invalid-xml"
    )


@pytest.mark.deviates(prosody="refuses continuation frames")
async def test_fragmented_message_is_put_together(clients: Clients, romeo: Client) -> None:
    raw = clients.raw("wss", account=romeo.account)
    async with ws_client.connect(
        raw.endpoint.url, ssl=raw.tls(), subprotocols=[Subprotocol("xmpp")], proxy=None
    ) as socket:
        text = f"<open xmlns='{ns.FRAMING}' to='{raw.host}' version='1.0'/>"
        await socket.send(iter([text[:5], text[5:20], text[20:]]))
        assert "<open" in str(await asyncio.wait_for(socket.recv(), 5))


async def test_websocket_ping_is_answered(clients: Clients) -> None:
    raw = clients.raw("wss")
    async with ws_client.connect(
        raw.endpoint.url, ssl=raw.tls(), subprotocols=[Subprotocol("xmpp")], proxy=None
    ) as socket:
        await asyncio.wait_for(await socket.ping(), 5)


async def test_large_message_passes(clients: Clients, romeo: Client) -> None:
    web = await clients.online(kind="wss")
    text = "x" * 100_000
    web.send(message(romeo.jid, text))
    assert (await romeo.expect("message")).body == text
    romeo.send(message(web.jid, text))
    assert (await web.expect("message")).body == text


async def test_message_above_the_limit_ends_the_stream(clients: Clients) -> None:
    # requirements 5.1: the limit holds before reassembly
    client = await clients.bound(kind="wss")
    client.send_raw(f"<message xmlns='jabber:client'><body>{'x' * 300_000}</body></message>")
    await client.expect_end()


@pytest.mark.ours("limit before login")
async def test_message_above_the_limit_before_login_ends_the_stream(clients: Clients) -> None:
    client = await opened(clients)
    client.send_raw(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{'A' * 12000}</auth>")
    await client.expect_end()


@pytest.mark.ours("http listener without TLS and plain login")
async def test_unencrypted_websocket_offers_no_login(clients: Clients) -> None:
    # a browser on the same machine may still use ws:// where allow_plaintext is on
    client = await opened(clients, "ws")
    assert client.mechanisms == []


@pytest.mark.ours("several domains on one port")
async def test_domains_share_the_port(clients: Clients, server: Server) -> None:
    # requirements 5.1: chosen by `to`
    client = clients.raw("ws", domain=server.settings.domains[-1])
    await client.connect()
    await client.open_stream()
    assert client.header is not None
    assert client.header.frm == server.settings.domains[-1]
