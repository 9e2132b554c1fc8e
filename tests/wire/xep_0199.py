# SPDX-License-Identifier: Apache-2.0
"""XEP-0199 XMPP Ping: both ways, to the server, to the own account and past it to others."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E


async def test_ping_to_own_server_gets_empty_result(romeo: Client) -> None:
    # XEP-0199 #c2s, example 4 and 5
    reply = await romeo.iq("get", to=romeo.host, payload=E("ping", ns.PING))
    assert (reply.type, reply.payload, reply.frm) == ("result", None, romeo.host)


async def test_ping_without_to_is_answered_for_the_account(romeo: Client) -> None:
    # RFC 6120 §10.3.3: no 'to' is the own bare JID
    reply = await romeo.iq("get", payload=E("ping", ns.PING))
    assert (reply.type, reply.payload) == ("result", None)
    assert reply.frm in (None, romeo.bare)


async def test_ping_to_own_bare_jid_is_answered_by_the_server(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.bare, payload=E("ping", ns.PING))
    assert (reply.type, reply.payload) == ("result", None)


async def test_ping_before_presence_is_answered(clients: Clients) -> None:
    quiet = await clients.bound()
    reply = await quiet.iq("get", to=quiet.host, payload=E("ping", ns.PING))
    assert reply.type == "result"


async def test_ping_from_client_to_client_passes_both_ways(romeo: Client, juliet: Client) -> None:
    # XEP-0199 #e2e, examples 12 and 13
    id_ = romeo.send(E("iq", ns.CLIENT, E("ping", ns.PING), type="get", to=juliet.jid))
    asked = await juliet.expect("iq", type="get", from_=romeo.jid, to=juliet.jid)
    assert asked.has("ping", ns.PING)
    juliet.answer(asked)
    answered = await romeo.expect("iq", id=id_)
    assert (answered.type, answered.frm, answered.to) == ("result", juliet.jid, romeo.jid)


async def test_client_answer_unsupported_passes_back(romeo: Client, juliet: Client) -> None:
    # XEP-0199 example 14: the pinged entity does not support the protocol
    romeo.send(E("iq", ns.CLIENT, E("ping", ns.PING), type="get", to=juliet.jid, id="e2e1"))
    asked = await juliet.expect("iq", type="get")
    error = E("error", None, E("service-unavailable", ns.STANZAS), type="cancel")
    juliet.send(
        E("iq", ns.CLIENT, E("ping", ns.PING), error, type="error", to=asked.frm, id="e2e1")
    )
    answered = await romeo.expect("iq", id="e2e1")
    assert (answered.type, answered.condition) == ("error", "service-unavailable")


async def test_ping_to_a_strangers_bare_jid_reveals_nothing(romeo: Client, juliet: Client) -> None:
    # RFC 6120 §10.2: existing and unknown accounts give the same answer to a stranger
    real = await romeo.iq("get", to=juliet.bare, payload=E("ping", ns.PING))
    none = await romeo.iq("get", to=f"nobody@{romeo.host}", payload=E("ping", ns.PING))
    assert (real.type, real.condition) == (none.type, none.condition)


async def test_ping_to_a_missing_resource_is_service_unavailable(
    romeo: Client, juliet: Client
) -> None:
    reply = await romeo.iq("get", to=f"{juliet.bare}/gone", payload=E("ping", ns.PING))
    assert (reply.type, reply.condition) == ("error", "service-unavailable")


async def test_ping_is_announced_by_server(romeo: Client) -> None:
    # XEP-0199 #disco
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert ns.PING in features


@pytest.mark.ours("only we ping clients by ourselves")
@pytest.mark.settings(limits={"idle_seconds": 1})
async def test_silent_client_is_pinged_by_the_server(romeo: Client) -> None:
    # XEP-0199 #s2c, example 1
    asked = await romeo.expect("iq", type="get", timeout_s=10)
    assert asked.has("ping", ns.PING)
    romeo.answer(asked)
    await romeo.sync()
