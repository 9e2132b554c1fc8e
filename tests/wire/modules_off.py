# SPDX-License-Identifier: Apache-2.0
"""Features that the operator has turned off: not announced, and not done either."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client, fence
from support.play import Clients
from support.xml import E, message

ALL = [
    "blocking",
    "caps",
    "carbons",
    "csi",
    "inbox",
    "inbox_esl",
    "mam",
    "offline",
    "ping",
    "sm",
]
FEATURES = {ns.BLOCKING, ns.CAPS, ns.CARBONS, ns.CARBONS_RULES, ns.PING, "msgoffline"}
OTHER = {'domain."other.example".modules': {"disable": ALL}}

pytestmark = pytest.mark.ours("other servers are configured in their own way")
everywhere_off = pytest.mark.settings(modules={"disable": ALL})
off_for_the_other_domain = pytest.mark.settings(**OTHER)


async def announced(client: Client) -> set[str | None]:
    """The features of the client's server."""
    reply = await client.iq("get", to=client.host, payload=E("query", ns.DISCO_INFO))
    return {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}


@everywhere_off
async def test_nothing_that_is_off_is_announced(romeo: Client) -> None:
    assert not FEATURES & await announced(romeo)
    for name, namespace in (("sm", ns.SM), ("csi", ns.CSI), ("c", ns.CAPS)):
        assert not romeo.features.has(name, namespace)
    assert romeo.features.has("bind", ns.BIND)


@everywhere_off
async def test_stream_management_that_is_off_is_refused(clients: Clients) -> None:
    # XEP-0198 #resumption: "If the server does not support session resumption […]
    # <feature-not-implemented/>"
    client = await clients.authenticated()
    client.send(E("resume", ns.SM, previd="x", h="0"))
    failed = await client.expect("failed")
    assert failed.has("feature-not-implemented", ns.STANZAS)
    await client.bind()
    client.send(E("enable", ns.SM, resume="true"))
    failed = await client.expect("failed")
    assert failed.has("feature-not-implemented", ns.STANZAS)
    client.send(E("r", ns.SM))
    failed = await client.expect("failed")
    assert failed.has("unexpected-request", ns.STANZAS)
    await client.roster()


@everywhere_off
async def test_inactive_clients_get_everything_at_once(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    juliet.send(E("inactive", ns.CSI))
    await juliet.roster()
    juliet.drain()
    await romeo.online(5)
    await juliet.expect("presence", from_=romeo.jid, timeout_s=3)


@everywhere_off
async def test_messages_for_the_absent_come_back(clients: Clients, romeo: Client) -> None:
    # XEP-0160 #flow, step 3
    absent = clients.server.account()
    romeo.send(message(absent.jid, "are you there?", type="chat", id="m1"))
    error = await romeo.expect("message", type="error", id="m1")
    assert error.condition == "service-unavailable"
    late = await clients.online(absent)
    await late.expect_nothing("message", within_s=0.1)


@everywhere_off
async def test_iqs_of_what_is_off_are_not_served(romeo: Client) -> None:
    for type_, to, payload in (
        ("set", None, E("enable", ns.CARBONS)),
        ("get", None, E("blocklist", ns.BLOCKING)),
        ("set", None, E("block", ns.BLOCKING, E("item", ns.BLOCKING, jid="a@b.example"))),
        ("get", romeo.host, E("ping", ns.PING)),
        ("get", None, E("ping", ns.PING)),
    ):
        reply = await romeo.iq(type_, to=to, payload=payload)
        assert (reply.type, reply.condition) == ("error", "service-unavailable"), str(payload)


@off_for_the_other_domain
async def test_what_is_off_for_one_domain_is_on_for_the_rest(clients: Clients) -> None:
    here = await clients.online(resource="here")
    there = await clients.online(clients.server.account("other.example"), resource="there")
    assert await announced(here) >= FEATURES
    assert not FEATURES & await announced(there)
    assert here.features.has("sm", ns.SM)
    assert here.features.has("csi", ns.CSI)
    assert not there.features.has("sm", ns.SM)
    assert not there.features.has("csi", ns.CSI)
    for client, type_ in ((here, "result"), (there, "error")):
        reply = await client.iq("get", to=client.host, payload=E("ping", ns.PING))
        assert reply.type == type_
        second = await clients.online(client, resource="second")
        reply = await second.iq("set", payload=E("enable", ns.CARBONS))
        assert reply.type == type_


@off_for_the_other_domain
async def test_offline_messages_are_kept_for_the_users_of_one_domain_only(
    clients: Clients,
) -> None:
    sender = await clients.online()
    for domain, is_kept in ((None, True), ("other.example", False)):
        absent = clients.server.account(domain)
        sender.send(message(absent.jid, "hello", type="chat"))
        await sender.roster()
        assert bool([e for e in sender.drain() if e.name == "message"]) is not is_kept
        late = await clients.online(absent)
        await fence(sender, late)
        assert bool([e for e in late.drain() if e.body == "hello"]) is is_kept
