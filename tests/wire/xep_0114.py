# SPDX-License-Identifier: Apache-2.0
"""XEP-0114 Jabber Component Protocol."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client, StreamFailed
from support.component import Component
from support.play import Clients
from support.server import COMPONENT_SECRET, Server
from support.xml import E, iq, message, presence


async def opened(server: Server, clients: Clients, **attrs: object) -> Component:
    """A component stream before the handshake."""
    made = Component(server)
    clients.made.append(made)
    await made.connect()
    await made.open_stream(**attrs)
    return made


async def test_header_and_handshake_of_the_example(server: Server, clients: Clients) -> None:
    # XEP-0114 #proto, examples 1 to 4
    component = await opened(server, clients)
    header = component.header
    assert header is not None
    assert (header.tag, header.frm) == (("stream", ns.STREAM), server.component_domain)
    assert header.id
    answer = await component.handshake_with(COMPONENT_SECRET)
    assert answer.children == []


async def test_wrong_secret_is_not_authorized(server: Server, clients: Clients) -> None:
    # XEP-0114 #proto: a stream error and the end
    component = await opened(server, clients)
    with pytest.raises(StreamFailed) as failure:
        await component.handshake_with("wrong")
    assert failure.value.condition == "not-authorized"
    await component.expect_end()


async def test_unknown_component_domain_is_refused(server: Server, clients: Clients) -> None:
    component = Component(server, f"unknown.{server.domain}")
    clients.made.append(component)
    await component.connect()
    component.open_header()
    await component.expect_stream_error("host-unknown", "conflict")


@pytest.mark.deviates(prosody="closes without a word")
async def test_client_namespace_is_refused_on_a_component_port(
    server: Server, clients: Clients
) -> None:
    component = Component(server)
    clients.made.append(component)
    await component.connect()
    component.send_raw(
        f"<stream:stream xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}' to='{component.host}'>"
    )
    await component.expect_stream_error("invalid-namespace")


@pytest.mark.deviates(prosody="answers with a stanza error")
async def test_stanza_before_the_handshake_is_not_authorized(
    server: Server, clients: Clients, romeo: Client
) -> None:
    component = await opened(server, clients)
    component.send(message(romeo.jid, "too early", from_=component.host))
    await component.expect_stream_error("not-authorized")
    await romeo.expect_nothing("message", within_s=0.05)


async def test_messages_pass_both_ways(component: Component, romeo: Client) -> None:
    address = component.address("user", "res")
    component.send(message(romeo.jid, "from outside", from_=address, type="chat"))
    got = await romeo.expect("message")
    assert (got.frm, got.ns) == (address, ns.CLIENT)
    romeo.send(message(address, "to outside", type="chat"))
    got = await component.expect("message")
    assert (got.frm, got.to, got.body) == (romeo.jid, address, "to outside")


async def test_presence_and_iq_pass_both_ways(component: Component, romeo: Client) -> None:
    room = component.address("room", "nick")
    romeo.send(presence(to=room))
    got = await component.expect("presence", to=room)
    component.send(presence(from_=room, to=romeo.jid))
    await romeo.expect("presence", from_=room)
    id_ = romeo.send(iq("get", E("query", ns.DISCO_INFO), to=component.host))
    asked = await component.expect("iq", id=id_)
    component.send(
        iq("result", E("query", ns.DISCO_INFO), from_=component.host, to=asked.frm, id=id_)
    )
    assert (await romeo.expect("iq", id=id_)).type == "result"
    assert got.frm == romeo.jid


async def test_bare_domain_is_the_components(component: Component, romeo: Client) -> None:
    romeo.send(message(component.host, "to the domain itself"))
    assert (await component.expect("message")).to == component.host


SILENT = pytest.mark.deviates(prosody="drops a stanza without an address silently")


@pytest.mark.parametrize(
    "address",
    ["user@{domain}", "{domain}", "user@example.org", pytest.param(None, marks=SILENT), "@@"],
)
async def test_stanza_from_outside_its_domain_is_refused(
    server: Server, component: Component, romeo: Client, address: str | None
) -> None:
    # XEP-0114 #proto: any address under its domain only; attack 13
    forged = address.format(domain=server.domain) if address else None
    component.send(message(romeo.jid, "forged", from_=forged))
    try:
        await component.expect_stream_error("invalid-from", "improper-addressing", "bad-format")
    except AssertionError:
        assert component.drain()[0].type == "error"
    await romeo.expect_nothing("message", within_s=0.05)


@pytest.mark.parametrize("to", [None, "@@"])
async def test_stanza_without_a_usable_to_is_refused(component: Component, to: str | None) -> None:
    component.send(message(to, "x", from_=component.address("user"), id="m1"))
    answer = await component.next()
    assert answer.name == "error" or answer.type == "error"


async def test_stanza_to_an_absent_component_is_answered(server: Server, romeo: Client) -> None:
    # remote-server-timeout, or another error that says wait
    romeo.send(message(server.component_domain, "anybody?", type="chat", id="m1"))
    got = await romeo.expect("message", id="m1")
    assert got.type == "error"
    assert got.condition in (
        "service-unavailable",
        "remote-server-timeout",
        "recipient-unavailable",
        "remote-server-not-found",
    )


async def test_second_connection_of_a_component_is_handled(
    server: Server, clients: Clients, component: Component, romeo: Client
) -> None:
    # several connections for one domain: a conflict for one of the two
    second = await opened(server, clients)
    try:
        await second.handshake_with(COMPONENT_SECRET)
        alive = second
    except AssertionError:
        alive = component
    romeo.send(message(alive.host, "hello"))
    await alive.expect("message")


async def test_component_can_come_back(server: Server, clients: Clients, romeo: Client) -> None:
    for _ in range(3):
        component = await Component(server).login()
        romeo.send(message(component.host, "hello"))
        await component.expect("message")
        await component.close()


async def test_closing_tag_is_answered(component: Component) -> None:
    component.send_raw("</stream:stream>")
    await component.expect_end()
    assert component.closed_stream


async def test_order_is_kept(component: Component, romeo: Client) -> None:
    for i in range(100):
        component.send(message(romeo.jid, str(i), from_=component.host))
    assert [(await romeo.expect("message")).body for _ in range(100)] == [
        str(i) for i in range(100)
    ]


async def test_not_well_formed_ends_the_component_alone(
    component: Component, romeo: Client
) -> None:
    component.send_raw("<message><a></message>")
    await component.expect_stream_error("not-well-formed", "bad-format")
    await romeo.sync()


async def test_doctype_is_refused(server: Server, clients: Clients) -> None:
    # attack 1 on the component's parser
    component = Component(server)
    clients.made.append(component)
    await component.connect()
    component.send_raw("<!DOCTYPE a [<!ENTITY b 'c'>]>")
    component.open_header()
    await component.expect_end()
