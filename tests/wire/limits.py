# SPDX-License-Identifier: Apache-2.0
"""The limits of `[limits]`: what reaches one is answered as its RFC or XEP says, and alone.

Those of pace (rates, queues of clients that do not read or acknowledge) are in attack_pace.py.

Each test configures a limit low, runs into it, and looks that others go on and that the one who
ran into it can come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support import ns
from support.antiphon import Antiphon
from support.bystanders import chat, refused, talking
from support.client import Client, SaslFailed
from support.hostile import header
from support.play import Clients
from support.sasl import Scram, plain
from support.server import Server
from support.xml import E, Element, message

pytestmark = pytest.mark.ours("the limits are ours")

SIZES = {
    "stanza_bytes": 12_000,
    "stanza_bytes_before_login": 4_000,
    "stanza_depth": 8,
    "stanza_elements": 50,
    "stanza_attributes": 10,
}
COUNTS = {
    "auth_attempts": 2,
    "sessions_per_user": 2,
    "roster_items": 3,
    "blocked_items": 3,
    "offline_messages": 3,
    "registrations_per_hour": 2,
    "http_body_bytes": 1_000,
}
TIMES = {"login_seconds": 2, "idle_seconds": 1}

sizes = pytest.mark.settings(limits=SIZES)
# With an archive, what finds no room elsewhere is kept there and does not come back.
counts = pytest.mark.settings(
    limits=COUNTS, modules_register={"enabled": True}, archive={"enabled": False}
)
times = pytest.mark.settings(limits=TIMES)


@pytest_asyncio.fixture
async def bystanders(clients: Clients) -> AsyncIterator[tuple[Client, Client]]:
    """Two clients who must be able to talk before and after."""
    async with talking(clients) as pair:
        yield pair


# -- sizes of a stanza (RFC 6120 §4.9.3.14, §13.12; XEP-0478) ------------------------


def nested(levels: int) -> str:
    return "<a xmlns='urn:test'>" + "<a>" * (levels - 1) + "</a>" * levels


TOO_BIG = {
    "bytes": "<message><body>" + "x" * 12_000 + "</body></message>",
    "bytes in an attribute": f"<message id='{'x' * 12_000}'/>",
    "bytes that never end": "<message><body>" + "x" * 30_000,
    "depth": f"<message>{nested(9)}</message>",
    "elements": "<message>" + "<a xmlns='urn:test'/>" * 50 + "</message>",
    "attributes": "<message " + " ".join(f"a{i}='1'" for i in range(11)) + "/>",
}


@sizes
@pytest.mark.parametrize("kind", ["starttls", "ws"])
@pytest.mark.parametrize("xml", TOO_BIG.values(), ids=TOO_BIG)
async def test_a_stanza_beyond_a_limit_ends_its_stream_alone(
    clients: Clients, bystanders: tuple[Client, Client], kind: str, xml: str
) -> None:
    client = await clients.bound(kind="wss" if kind == "ws" else kind)
    client.send_raw(xml.replace("<message", f"<message xmlns='{ns.CLIENT}'", 1))
    if kind == "ws" and len(xml) > 12_000:
        # one WebSocket message of that size is refused before its XML is looked at
        await client.expect_eof()
    else:
        await refused(client, "policy-violation")
    again = await clients.bound(client)
    await again.sync()


@sizes
async def test_a_stanza_at_the_limits_is_taken(clients: Clients, server: Server) -> None:
    client = await clients.online()
    for payload in (
        nested(8),
        "<a xmlns='urn:test'>" + "<b/>" * 48 + "</a>",
        "<a xmlns='urn:test' " + " ".join(f"a{i}='1'" for i in range(9)) + "/>",
    ):
        client.send_raw(f"<message to='{client.jid}' type='chat'>{payload}</message>")
        await client.expect("message")


@sizes
@pytest.mark.parametrize("stage", ["before TLS", "before login"])
async def test_before_login_the_limit_is_lower(
    clients: Clients, bystanders: tuple[Client, Client], stage: str
) -> None:
    # RFC 6120 §13.12: nobody who is not known may take much
    if stage == "before TLS":
        client = clients.raw()
        await client.connect()
        await client.open_stream()
    else:
        client = await clients.stream()
    client.send_raw(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{'x' * 4_100}</auth>")
    await refused(client, "policy-violation")


@sizes
async def test_the_header_counts_too(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.open_header(to="x" * 4_100)
    await refused(client, "policy-violation")


@sizes
async def test_sizes_are_announced(clients: Clients) -> None:
    # XEP-0478 #announcing
    client = await clients.stream()
    assert client.features.at(("limits", ns.STREAM_LIMITS), "max-bytes").text == "4000"
    await client.authenticate()
    limits = client.features.at(("limits", ns.STREAM_LIMITS))
    assert limits.at("max-bytes").text == "12000"
    assert limits.at("idle-seconds").text == "600"


# -- connections of an address -------------------------------------------------------


@pytest.mark.settings(limits={"connections_per_address": 4})
async def test_more_connections_than_an_address_may_have_are_refused(
    clients: Clients, server: Server
) -> None:
    kept = [clients.raw() for _ in range(4)]
    for client in kept:
        await client.connect()
        await client.open_stream()
    extra = clients.raw()
    await extra.connect()
    extra.open_header()
    await refused(extra, "policy-violation")
    for port in (server.ports.direct, server.ports.http, server.ports.component):
        reader, writer = await asyncio.open_connection(server.address, port)
        assert await reader.read() == b"", "refused without a word"
        writer.close()
    # another address is another's
    reader, writer = await asyncio.open_connection(
        server.address, server.ports.c2s, local_addr=("127.0.0.9", 0)
    )
    writer.write(header(server.domain).encode())
    assert b"features" in await asyncio.wait_for(reader.readuntil(b"</stream:features>"), 5)
    writer.close()
    for client in kept:
        client.abort()

    async def has_room() -> bool:
        again = clients.raw()
        try:
            await again.connect()
            await again.open_stream()
        except (AssertionError, OSError):
            return False
        return True

    for _ in range(100):
        if await has_room():
            return
        await asyncio.sleep(0.05)
    pytest.fail("closed connections made no room")


@pytest.mark.settings(limits={"connections_per_address": 40})
async def test_who_comes_and_goes_too_often_must_wait_and_nobody_else(
    server: Server, bystanders: tuple[Client, Client]
) -> None:
    # ten times as many a minute as may be open, 600 at least
    async def connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = server.ports.c2s
        return await asyncio.open_connection(server.address, port, local_addr=(address, 0))

    for _ in range(610):
        _, writer = await connected("127.0.0.7")
        writer.close()
    reader, writer = await connected("127.0.0.7")
    assert b"policy-violation" in await asyncio.wait_for(reader.read(), 5)
    writer.close()
    reader, writer = await connected("127.0.0.9")
    writer.write(header(server.domain).encode())
    assert b"features" in await asyncio.wait_for(reader.readuntil(b"</stream:features>"), 5)
    writer.close()
    await chat(*bystanders)


# -- times ---------------------------------------------------------------------------


@times
@pytest.mark.parametrize("stage", ["silent", "header", "tls", "authenticated", "ws"])
async def test_who_takes_too_long_to_log_in_is_put_out(clients: Clients, stage: str) -> None:
    # requirements 1: nobody holds a connection without a name for long
    client = clients.raw("wss" if stage == "ws" else "starttls", account=clients.server.account())
    await client.connect()
    if stage == "tls":
        await client.open_stream()
        client.send(E("starttls", ns.TLS))
        await client.expect("proceed")  # and then no handshake
        await client.expect_eof(timeout_s=12)
        return
    if stage in ("header", "ws"):
        await client.open_stream()
    elif stage == "authenticated":
        await client.open_stream()
        await client.starttls()
        await client.authenticate()
    await client.expect_stream_error("connection-timeout", timeout_s=12)
    await client.expect_eof()


@times
async def test_a_direct_tls_handshake_that_never_comes_is_ended(server: Server) -> None:
    reader, writer = await asyncio.open_connection(server.address, server.ports.direct)
    assert await asyncio.wait_for(reader.read(), 12) == b""
    writer.close()


@times
async def test_a_silent_client_is_asked_and_then_ended(clients: Clients) -> None:
    # RFC 6120 §4.6.3.2, XEP-0199 #s2c
    client = await clients.bound()
    limits = client.features.at(("limits", ns.STREAM_LIMITS))
    assert limits.at("idle-seconds").text == "1"
    asked = await client.expect("iq", type="get", timeout_s=10)
    assert asked.child("ping", ns.PING) is not None
    await client.expect_stream_error("connection-timeout", timeout_s=10)
    await (await clients.bound(client)).sync()


@times
async def test_who_answers_the_ping_stays(clients: Clients) -> None:
    client = await clients.bound()
    for _ in range(3):
        client.answer(await client.expect("iq", type="get", timeout_s=10))
    await client.sync()


@times
async def test_a_session_whose_client_fell_silent_can_be_resumed(clients: Clients) -> None:
    old = await clients.bound()
    await old.sm_enable()
    await old.expect_stream_error("connection-timeout", timeout_s=10)
    new = await clients.authenticated(old.account)
    assert (await new.sm_resume(old)).name == "resumed"


# -- logins --------------------------------------------------------------------------


@counts
async def test_a_stream_has_few_attempts_to_log_in(clients: Clients) -> None:
    # RFC 6120 §6.4.5: retries are limited, then the stream ends
    client = await clients.stream()
    assert client.account is not None
    with pytest.raises(SaslFailed, match="not-authorized"):
        await client.sasl("PLAIN", plain(client.account.user, "wrong"))
    with pytest.raises(SaslFailed, match="not-authorized"):
        await client.scram(Scram("SCRAM-SHA-256", client.account.user, "wrong"))
    await refused(client, "policy-violation")
    await (await clients.bound(client)).sync()


@pytest.mark.settings(limits={"auth_failures_per_minute": 3, "auth_attempts": 100})
async def test_an_address_that_fails_too_often_must_wait(clients: Clients) -> None:
    known = await clients.online()
    client = await clients.stream()
    assert client.account is not None
    for _ in range(3):
        with pytest.raises(SaslFailed, match="not-authorized"):
            await client.sasl("PLAIN", plain(client.account.user, "wrong"))
    with pytest.raises(SaslFailed, match="temporary-auth-failure"):
        # the right one, too: a guess must not be told from another
        await client.sasl("PLAIN", plain(client.account.user, client.account.password))
    await known.sync()


# -- counts of a user ----------------------------------------------------------------


@counts
async def test_a_user_has_so_many_sessions(clients: Clients) -> None:
    # RFC 6120 §7.7.2.1: resource-constraint on the bind alone
    first = await clients.online()
    await clients.online(first)
    third = await clients.authenticated(first.account)
    reply = await third.iq("set", payload=E("bind", ns.BIND))
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    await first.close()

    async def binds() -> bool:
        return (await third.iq("set", payload=E("bind", ns.BIND))).type == "result"

    for _ in range(50):
        if await binds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("a session that ended made no room")


@counts
async def test_a_roster_has_so_many_contacts(clients: Clients) -> None:
    client = await clients.online()
    for i in range(3):
        assert (await client.roster_set(f"c{i}@{client.host}")).type == "result"
    reply = await client.roster_set(f"c3@{client.host}")
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    assert (await client.roster_set(f"c2@{client.host}", name="changed")).type == "result"
    assert (await client.roster_set(f"c2@{client.host}", subscription="remove")).type == "result"
    assert (await client.roster_set(f"c3@{client.host}")).type == "result"


@counts
async def test_a_block_list_has_so_many_entries(clients: Clients) -> None:
    # XEP-0191 leaves the bound to the server
    client = await clients.online()

    async def block(*names: str) -> Element:
        items = [E("item", None, jid=f"{name}@{client.host}") for name in names]
        return await client.iq("set", payload=E("block", ns.BLOCKING, *items))

    assert (await block("a", "b", "c")).type == "result"
    reply = await block("d")
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    assert (await block("a")).type == "result"


@counts
async def test_so_many_messages_wait_for_a_user(clients: Clients, romeo: Client) -> None:
    # XEP-0160 #handling: beyond it the sender hears service-unavailable
    absent = await clients.online()
    await absent.close()
    for i in range(5):
        romeo.send(message(absent.bare, str(i), type="chat", id=f"m{i}"))
    for i in (3, 4):
        back = await romeo.expect("message", type="error", id=f"m{i}")
        assert back.condition in ("service-unavailable", "resource-constraint")
    late = await clients.online(absent)
    assert [(await late.expect("message")).body for _ in range(3)] == ["0", "1", "2"]
    await late.sync()
    await late.close()
    romeo.send(message(absent.bare, "room again", type="chat"))
    again = await clients.online(absent)
    assert (await again.expect("message")).body == "room again"


# -- registration and HTTP ---------------------------------------------------------------


@counts
async def test_an_address_registers_so_many_accounts_an_hour(clients: Clients) -> None:
    # XEP-0077 #security; RFC 6120 §13.12
    for i in range(3):
        client = clients.raw(account=clients.server.named(f"new{i}", clients.server.domain))
        await client.negotiate()
        reply = await client.iq(
            "set",
            payload=E(
                "query",
                ns.REGISTER,
                E("username", None, f"new{i}"),
                E("password", None, client.account.password if client.account else ""),
            ),
        )
        if i < 2:
            assert reply.type == "result", str(reply)
            await client.authenticate()
        else:
            assert reply.condition in ("resource-constraint", "not-allowed", "policy-violation")
        client.abort()


@counts
async def test_the_body_of_a_request_is_bounded(
    server: Server, bystanders: tuple[Client, Client]
) -> None:
    # RFC 9110 §15.5.14
    async def post(body: bytes, chunked: bool) -> bytes:
        reader, writer = await asyncio.open_connection(server.address, server.ports.http)
        how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        writer.write(b"POST /livez HTTP/1.1\r\nHost: x\r\n" + how + b"\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        return line

    for chunked in (False, True):
        assert b" 413 " in await post(b"x" * 1_001, chunked)
        assert b" 413 " not in await post(b"x" * 1_000, chunked)


# -- 0 is no limit ------------------------------------------------------------------------


@pytest.mark.settings(
    limits=dict.fromkeys(
        (
            "connections_per_address",
            "stanza_bytes",
            "stanza_depth",
            "stanza_elements",
            "stanza_attributes",
            "login_seconds",
            "idle_seconds",
            "auth_attempts",
            "sessions_per_user",
            "roster_items",
            "blocked_items",
            "offline_messages",
            "sm_queue_stanzas",
            "outgoing_bytes",
            "http_body_bytes",
        ),
        0,
    )
)
async def test_zero_turns_a_limit_off(clients: Clients, server: Server) -> None:
    assert isinstance(server, Antiphon)
    client = await clients.online()
    many = "".join(f"<a{i % 7} xmlns='urn:test'/>" for i in range(30_000))
    client.send_raw(f"<message to='{client.jid}'>{nested(100)}{many}</message>")
    await client.expect("message", timeout_s=20)
    for i in range(25):
        await clients.bound(client)
        assert (await client.roster_set(f"c{i}@{client.host}")).type == "result"
    stream = await clients.stream()
    assert stream.account is not None
    for _ in range(8):
        with pytest.raises(SaslFailed):
            await stream.sasl("PLAIN", plain(stream.account.user, "wrong"))
    await stream.authenticate()
    with pytest.raises(AssertionError):
        # XEP-0478 #announcing: no limit, nothing to announce
        stream.features.at(("limits", ns.STREAM_LIMITS), "idle-seconds")
