# SPDX-License-Identifier: Apache-2.0
"""XEP-0050 Ad-Hoc Commands: listing, stages, and whose session a session is."""

from __future__ import annotations

import pytest
import pytest_asyncio

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, Element

ADD_USER = f"{ns.ADMIN}#add-user"


async def command(client: Client, node: str, *children: Element, **attrs: object) -> Element:
    """Sends `<command/>` to the server; the answer."""
    payload = E("command", ns.COMMANDS, *children, node=node, **attrs)
    return await client.iq("set", to=client.host, payload=payload)


async def commands(client: Client) -> set[str | None]:
    """The nodes of the commands that the server lists for this client."""
    payload = E("query", ns.DISCO_ITEMS, node=ns.COMMANDS)
    reply = await client.iq("get", to=client.host, payload=payload)
    if reply.type == "error":
        return set()
    return {i.get("node") for i in reply.at(("query", ns.DISCO_ITEMS)).all("item")}


@pytest_asyncio.fixture
async def admin(clients: Clients, server: Server) -> Client:
    """A session of the administrator."""
    return await clients.bound(server.admin)


async def test_support_is_announced(romeo: Client) -> None:
    # XEP-0050 #disco
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert ns.COMMANDS in features


async def test_list_names_node_and_jid(admin: Client) -> None:
    # XEP-0050 #retrieve, examples 1 and 2
    payload = E("query", ns.DISCO_ITEMS, node=ns.COMMANDS)
    reply = await admin.iq("get", to=admin.host, payload=payload)
    query = reply.at(("query", ns.DISCO_ITEMS))
    assert query.get("node") == ns.COMMANDS
    assert query.all("item")
    for item in query.all("item"):
        assert (item.get("jid"), bool(item.get("node")), bool(item.get("name"))) == (
            admin.host,
            True,
            True,
        )


async def test_list_is_empty_for_who_may_not(romeo: Client) -> None:
    # requirements 17: hidden from who may not run them
    assert ADD_USER not in await commands(romeo)


async def test_command_node_has_its_identity(admin: Client) -> None:
    # XEP-0050 #retrieve, examples 5 and 6
    payload = E("query", ns.DISCO_INFO, node=ADD_USER)
    reply = await admin.iq("get", to=admin.host, payload=payload)
    query = reply.at(("query", ns.DISCO_INFO))
    identity = query.at("identity")
    assert (identity.get("category"), identity.get("type")) == ("automation", "command-node")
    assert {ns.COMMANDS, ns.DATA_FORMS} <= {f.get("var") for f in query.all("feature")}


async def test_execution_gives_a_session_and_a_form(admin: Client) -> None:
    # XEP-0050 #execute, example 10
    reply = await command(admin, ADD_USER, action="execute")
    answer = reply.at(("command", ns.COMMANDS))
    assert (answer.get("status"), answer.get("node")) == ("executing", ADD_USER)
    assert len(answer.get("sessionid") or "") >= 8
    assert answer.has("x", ns.DATA_FORMS)


async def test_missing_action_is_execute(admin: Client) -> None:
    reply = await command(admin, ADD_USER)
    assert reply.at(("command", ns.COMMANDS)).get("status") == "executing"


async def test_cancel_ends_the_session(admin: Client) -> None:
    # XEP-0050 #cancel, examples 12 and 13
    started = (await command(admin, ADD_USER)).at(("command", ns.COMMANDS))
    session = started.get("sessionid")
    reply = await command(admin, ADD_USER, action="cancel", sessionid=session)
    answer = reply.at(("command", ns.COMMANDS))
    assert (answer.get("status"), answer.get("sessionid")) == ("canceled", session)


@pytest.mark.deviates(prosody="begins anew under a session id that it does not know")
async def test_cancelled_session_is_gone(admin: Client) -> None:
    # XEP-0050 #errors: session-expired or bad-sessionid
    session = (await command(admin, ADD_USER)).at(("command", ns.COMMANDS)).get("sessionid")
    await command(admin, ADD_USER, action="cancel", sessionid=session)
    reply = await command(admin, ADD_USER, action="complete", sessionid=session)
    assert reply.type == "error"
    assert reply.condition in ("bad-request", "not-allowed", "item-not-found")


async def test_unknown_command_is_item_not_found(admin: Client) -> None:
    reply = await command(admin, "no-such-command")
    assert (reply.type, reply.condition) in (
        ("error", "item-not-found"),
        ("error", "service-unavailable"),
    )


async def test_forbidden_command_is_refused(romeo: Client) -> None:
    reply = await command(romeo, ADD_USER)
    assert reply.type == "error"
    assert reply.condition in ("forbidden", "item-not-found", "not-allowed")


@pytest.mark.deviates(prosody="takes any action as the next step")
async def test_unknown_action_is_bad_request(admin: Client) -> None:
    # XEP-0050 #errors: malformed-action
    reply = await command(admin, ADD_USER, action="explode")
    assert (reply.type, reply.condition) == ("error", "bad-request")


@pytest.mark.ours("a session belongs to the full JID that began it")
async def test_session_of_another_is_of_no_use(
    clients: Clients, admin: Client, server: Server
) -> None:
    # attack 24: session hijack
    session = (await command(admin, ADD_USER)).at(("command", ns.COMMANDS)).get("sessionid")
    other = await clients.bound(server.admin)
    reply = await command(other, ADD_USER, action="cancel", sessionid=session)
    assert reply.type == "error"
    mine = await command(admin, ADD_USER, action="cancel", sessionid=session)
    assert mine.type == "result"
