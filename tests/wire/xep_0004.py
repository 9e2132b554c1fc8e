# SPDX-License-Identifier: Apache-2.0
"""XEP-0004 Data Forms: forms of the server have the right form, forms of clients pass."""

from __future__ import annotations

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, message

TYPES = {
    "boolean",
    "fixed",
    "hidden",
    "jid-multi",
    "jid-single",
    "list-multi",
    "list-single",
    "text-multi",
    "text-private",
    "text-single",
}


async def test_form_of_a_command_is_well_formed(clients: Clients, server: Server) -> None:
    # XEP-0004 #protocol-formtypes and #protocol-fieldtypes, by an admin command (XEP-0133)
    admin = await clients.bound(server.admin)
    node = f"{ns.ADMIN}#add-user"
    reply = await admin.iq(
        "set", to=server.domain, payload=E("command", ns.COMMANDS, node=node, action="execute")
    )
    form = reply.at(("command", ns.COMMANDS), ("x", ns.DATA_FORMS))
    assert form.get("type") == "form"
    fields = form.all("field")
    assert all(f.get("type") in TYPES for f in fields)
    names = [f.get("var") for f in fields if f.get("type") != "fixed"]
    assert all(names)
    assert len(names) == len(set(names))


async def test_form_between_clients_passes_whole(romeo: Client, juliet: Client) -> None:
    form = E(
        "x",
        ns.DATA_FORMS,
        E("title", None, "Joogle Search"),
        E("reported", None, E("field", None, var="name"), E("field", None, var="url")),
        E("item", None, E("field", None, E("value", None, "Benvolio"), var="name")),
        type="result",
    )
    romeo.send(message(juliet.jid, form))
    got = await juliet.expect("message")
    assert got.at(("x", ns.DATA_FORMS)).canonical() == form.canonical()
