# SPDX-License-Identifier: Apache-2.0
"""XEP-0368 SRV records for XMPP over TLS, and RFC 7590: direct TLS, ALPN, SNI, versions."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from contextlib import suppress

import pytest
from cryptography import x509

from support import ns
from support.antiphon import Antiphon
from support.client import Client
from support.endpoint import Endpoint
from support.play import Clients
from support.server import Server
from support.transport import TcpTransport
from support.xml import E


def context(server: Server) -> ssl.SSLContext:
    """A client's context that trusts the test authority."""
    return ssl.create_default_context(cafile=server.authority.ca)


async def handshake(
    server: Server, tls: ssl.SSLContext, name: str | None = None
) -> tuple[str | None, str | None]:
    """A direct TLS connection that is closed again: (ALPN chosen, TLS version)."""
    _, writer = await asyncio.open_connection(
        server.address, server.ports.direct, ssl=tls, server_hostname=name or server.domain
    )
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return found.selected_alpn_protocol(), found.version()


async def test_direct_tls_serves_a_session(clients: Clients) -> None:
    client = await clients.online(kind="direct")
    await client.sync()


async def test_starttls_is_not_offered_inside_direct_tls(clients: Clients) -> None:
    # XEP-0368 #usage: already encrypted
    client = clients.raw("direct")
    await client.connect()
    await client.open_stream()
    assert not client.features.has("starttls", ns.TLS)
    assert client.mechanisms


@pytest.mark.parametrize("alpn", [(), ("xmpp-client",)], ids=["none", "xmpp-client"])
@pytest.mark.deviates(prosody="chooses no ALPN")
async def test_client_is_served_with_and_without_alpn(
    server: Server, alpn: tuple[str, ...]
) -> None:
    # XEP-0368 #alpn: a missing extension is accepted
    tls = context(server)
    if alpn:
        tls.set_alpn_protocols(list(alpn))
    chosen, _ = await handshake(server, tls)
    assert chosen == (alpn[0] if alpn else None)


@pytest.mark.deviates(prosody="takes any offer on this port")
@pytest.mark.parametrize("alpn", [("xmpp-server",), ("h2", "http/1.1")], ids=["s2s", "http"])
async def test_other_alpn_is_refused_on_a_client_port(
    server: Server, alpn: tuple[str, ...]
) -> None:
    # RFC 7301 §3.2: no_application_protocol
    tls = context(server)
    tls.set_alpn_protocols(list(alpn))
    with pytest.raises((ssl.SSLError, OSError)):
        await handshake(server, tls)


@pytest.mark.deviates(prosody="chooses no ALPN")
async def test_xmpp_client_is_chosen_among_several(server: Server) -> None:
    tls = context(server)
    tls.set_alpn_protocols(["h2", "xmpp-client"])
    assert (await handshake(server, tls))[0] == "xmpp-client"


@pytest.mark.deviates(prosody="the direct port has one certificate in our set-up")
async def test_sni_selects_the_certificate(server: Server) -> None:
    # RFC 7590 §3.1 with RFC 6066: the default context checks the name
    for domain in server.settings.domains:
        await handshake(server, context(server), domain)


async def test_starttls_selects_the_certificate_by_the_stream(
    clients: Clients, server: Server
) -> None:
    # the stream's `to` is known before the handshake
    for domain in server.settings.domains:
        client = clients.raw(domain=domain)
        await client.connect()
        await client.open_stream()
        await client.starttls()
        leaf = x509.load_der_x509_certificate(client.transport.certificate())
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert domain in names.get_values_for_type(x509.DNSName)


@pytest.mark.ours("an unknown name gets the first certificate or a refusal, never a crash")
async def test_unknown_sni_does_not_harm(server: Server, clients: Clients) -> None:
    tls = context(server)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    with suppress(ssl.SSLError, OSError):
        await handshake(server, tls, "unknown.invalid")
    await clients.online(kind="direct")


async def test_missing_sni_is_served(server: Server) -> None:
    tls = context(server)
    tls.check_hostname = False
    _, writer = await asyncio.open_connection(
        server.address, server.ports.direct, ssl=tls, server_hostname=""
    )
    writer.transport.abort()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_current_versions_are_spoken(server: Server, version: ssl.TLSVersion) -> None:
    # RFC 9325 §3.1.1
    tls = context(server)
    tls.minimum_version = tls.maximum_version = version
    _, spoken = await handshake(server, tls)
    assert spoken in ("TLSv1.2", "TLSv1.3")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_are_refused(server: Server, version: ssl.TLSVersion) -> None:
    # RFC 9325 §3.1.1: neither 1.0 nor 1.1
    tls = context(server)
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = tls.maximum_version = version
    with pytest.raises((ssl.SSLError, OSError)):
        await handshake(server, tls)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.deviates(prosody="the distribution decides on ciphers")
async def test_weak_ciphers_are_refused(server: Server) -> None:
    # RFC 9325 §4.1: forward secrecy and AEAD
    for ciphers in ("AES128-SHA:AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL", "RC4:DES:3DES"):
        tls = context(server)
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        try:
            tls.set_ciphers(f"{ciphers}:@SECLEVEL=0")
        except ssl.SSLError:
            continue  # this OpenSSL has none of them
        with pytest.raises((ssl.SSLError, OSError)):
            await handshake(server, tls)


@pytest.mark.deviates(prosody="keeps the line open for a while")
async def test_plain_bytes_on_the_tls_port_end_the_connection(clients: Clients) -> None:
    client = clients.raw("direct")
    plain = Endpoint(client.host, client.endpoint.host, client.endpoint.port, "plain")
    talker = Client(plain)
    try:
        await talker.connect()
        talker.open_header()
        await talker.expect_eof()
    finally:
        talker.abort()


@pytest.mark.ours("reload on SIGHUP")
async def test_certificates_are_reloaded_without_dropping_streams(
    new_server: object, clients: Clients
) -> None:
    assert callable(new_server)
    server = new_server()
    assert isinstance(server, Antiphon)
    try:
        client = Client(server.endpoint(), server.account())
        await client.login()
        before = after = client.transport.certificate()
        server.write_config()  # issues every certificate anew
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGHUP)
        for _ in range(100):
            await asyncio.sleep(0.05)
            other = Client(server.endpoint(), server.account())
            await other.negotiate()
            after = other.transport.certificate()
            other.abort()
            if after != before:
                break
        assert after != before
        await client.sync()
        client.abort()
    finally:
        server.stop()


async def test_session_after_tls_resumption_works(clients: Clients, server: Server) -> None:
    # RFC 8446 §2.2: tickets; a second handshake with the first one's session
    tls = context(server)
    first = Client(server.endpoint("direct"), server.account())
    first.tls = lambda: tls  # type: ignore[method-assign]
    await first.login()
    await first.sync()
    transport = first.transport
    assert isinstance(transport, TcpTransport)
    first.abort()
    second = Client(server.endpoint("direct"), server.account())
    second.tls = lambda: tls  # type: ignore[method-assign]
    await second.login()
    assert (await second.iq("get", to=second.host, payload=E("ping", ns.PING))).type == "result"
    second.abort()
