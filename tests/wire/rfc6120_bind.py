# SPDX-License-Identifier: Apache-2.0
"""RFC 6120 §7: resource binding, conflicts, and the session IQ of RFC 3921."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, iq, message


async def test_bind_is_offered_after_login(clients: Clients) -> None:
    # RFC 6120 §7.4
    client = await clients.authenticated()
    assert client.features.has("bind", ns.BIND)


async def test_server_generates_a_resource(clients: Clients) -> None:
    # RFC 6120 §7.6.1, example
    client = await clients.authenticated()
    jid = await client.bind()
    assert client.account is not None
    assert jid.startswith(f"{client.account.jid}/")
    assert len(client.resource) >= 8


async def test_generated_resources_differ(clients: Clients) -> None:
    # RFC 6120 §7.6: unguessable
    first = await clients.bound()
    second = await clients.bound(first)
    assert first.bare == second.bare
    assert first.resource != second.resource


async def test_client_chooses_a_resource(clients: Clients) -> None:
    # RFC 6120 §7.7.1, example
    client = await clients.authenticated()
    assert (await client.bind("balcony")).endswith("/balcony")


@pytest.mark.parametrize(
    "resource", ["a b", "Ünï¢øde", "with/slash", "with@at", "&<>'\"", "R" * 100]
)
async def test_unusual_resources_are_kept(clients: Clients, resource: str) -> None:
    client = await clients.authenticated()
    assert (await client.bind(resource)).partition("/")[2] == resource


async def test_resource_is_case_sensitive(clients: Clients) -> None:
    # RFC 7622 §3.4: OpaqueString keeps case
    lower = await clients.bound(resource="phone")
    upper = await clients.bound(lower, resource="Phone")
    assert {lower.resource, upper.resource} == {"phone", "Phone"}
    await lower.sync()


@pytest.mark.parametrize("resource", ["x" * 1024, "\u0378", "\u2028bad\u200e"])
async def test_unusable_resource_is_repaired_or_refused(clients: Clients, resource: str) -> None:
    # RFC 6120 §7.7.2.1: bad-request, or one that the server makes
    client = await clients.authenticated()
    reply = await client.iq("set", payload=E("bind", ns.BIND, E("resource", None, resource)))
    if reply.type == "error":
        assert reply.condition in ("bad-request", "jid-malformed")
        await client.bind("fine")


async def test_empty_resource_is_replaced(clients: Clients) -> None:
    client = await clients.authenticated()
    assert (await client.bind("")).partition("/")[2]


async def test_old_session_with_the_resource_ends_with_conflict(clients: Clients) -> None:
    # RFC 6120 §7.7.2.2 case 3 and §4.9.3.3: our default where a client insists on its resource
    old = await clients.online(resource="phone")
    new = await clients.bound(old, resource="phone")
    await old.expect_stream_error("conflict")
    assert new.resource == "phone"
    await new.sync()


async def test_messages_reach_the_new_session_after_a_conflict(
    clients: Clients, juliet: Client
) -> None:
    old = await clients.online(resource="phone")
    new = await clients.online(old, resource="phone")
    await old.expect_end()
    juliet.send(message(new.jid, "to the new one"))
    assert (await new.expect("message")).body == "to the new one"


async def test_second_bind_on_a_stream_is_refused(clients: Clients) -> None:
    # RFC 6120 §7.7.2.3: not-allowed
    client = await clients.bound()
    reply = await client.iq("set", payload=E("bind", ns.BIND))
    assert reply.type == "error"
    assert reply.condition in ("not-allowed", "service-unavailable", "bad-request")


@pytest.mark.deviates(prosody="binds all the same")
async def test_bind_get_is_refused(clients: Clients) -> None:
    client = await clients.authenticated()
    client.send(iq("get", E("bind", ns.BIND)))
    answer = await client.next()
    assert answer.type == "error" or answer.name == "error"


@pytest.mark.deviates(prosody="answers with a stanza error")
async def test_stanza_to_another_before_bind_is_not_authorized(
    clients: Clients, juliet: Client
) -> None:
    # RFC 6120 §7.1
    client = await clients.authenticated()
    client.send(message(juliet.jid, "too early"))
    await client.expect_stream_error("not-authorized")


async def test_session_iq_of_rfc_3921_is_a_no_op(clients: Clients) -> None:
    client = await clients.bound()
    reply = await client.iq("set", payload=E("session", ns.SESSION))
    assert (reply.type, reply.payload) in (("result", None),) or reply.type == "result"


async def test_session_feature_is_optional(clients: Clients) -> None:
    client = await clients.authenticated()
    session = client.features.child("session", ns.SESSION)
    if session is not None:
        assert session.has("optional")


@pytest.mark.ours("sessions_per_user")
@pytest.mark.settings(limits={"sessions_per_user": 3})
async def test_sessions_above_the_limit_are_resource_constraint(clients: Clients) -> None:
    # RFC 6120 §7.6.2.1
    first = await clients.bound()
    for _ in range(2):
        await clients.bound(first)
    extra = await clients.authenticated(first.account)
    reply = await extra.iq("set", payload=E("bind", ns.BIND))
    assert (reply.type, reply.condition) == ("error", "resource-constraint")
    await first.close()
    await extra.bind()


async def test_many_sessions_of_one_account_live_together(clients: Clients) -> None:
    first = await clients.online()
    others = [await clients.online(first) for _ in range(4)]
    for client in (first, *others):
        await client.sync()
    assert len({c.jid for c in (first, *others)}) == 5
