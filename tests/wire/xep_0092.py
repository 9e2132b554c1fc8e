# SPDX-License-Identifier: Apache-2.0
"""XEP-0092 Software Version."""

from __future__ import annotations

from support import ns
from support.client import Client
from support.xml import E


async def test_server_tells_name_and_version(romeo: Client) -> None:
    # XEP-0092 #proto, example 2
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.VERSION))
    assert reply.type == "result"
    query = reply.at(("query", ns.VERSION))
    assert query.at("name").text
    assert query.at("version").text


async def test_support_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    assert ns.VERSION in {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}


async def test_version_cannot_be_set(romeo: Client) -> None:
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", ns.VERSION))
    assert reply.type == "error"


async def test_client_is_asked_at_its_full_jid(romeo: Client, juliet: Client) -> None:
    # XEP-0092, example 1 between clients
    romeo.send(E("iq", ns.CLIENT, E("query", ns.VERSION), type="get", to=juliet.jid, id="v1"))
    asked = await juliet.expect("iq", id="v1")
    name = E("query", ns.VERSION, E("name", None, "Exodus"), E("version", None, "0.7.0.4"))
    juliet.answer(asked, name)
    reply = await romeo.expect("iq", id="v1")
    assert reply.at(("query", ns.VERSION), "name").text == "Exodus"


async def test_account_of_a_stranger_does_not_answer(romeo: Client, juliet: Client) -> None:
    reply = await romeo.iq("get", to=juliet.bare, payload=E("query", ns.VERSION))
    assert (reply.type, reply.condition) == ("error", "service-unavailable")
