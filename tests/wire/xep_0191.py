# SPDX-License-Identifier: Apache-2.0
"""XEP-0191 Blocking Command: lists, pushes, and every kind of stanza in both directions."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.component import Component
from support.play import Clients
from support.xml import E, Element, iq, message, presence


async def command(client: Client, name: str, *jids: str) -> Element:
    """`<block/>` or `<unblock/>` with these items; its answer."""
    return await client.iq(
        "set", payload=E(name, ns.BLOCKING, *[E("item", None, jid=j) for j in jids])
    )


async def block(client: Client, *jids: str) -> None:
    """Blocks, and takes the push."""
    assert (await command(client, "block", *jids)).type == "result"


async def blocklist(client: Client) -> set[str | None]:
    """The list; the client gets pushes from now on (XEP-0191 #blocklist)."""
    reply = await client.iq("get", payload=E("blocklist", ns.BLOCKING))
    assert reply.type == "result"
    return {i.get("jid") for i in reply.at(("blocklist", ns.BLOCKING)).all("item")}


# -- the list (XEP-0191 #blocklist, #block, #unblock) -------------------------------------


async def test_support_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert ns.BLOCKING in features


async def test_fresh_list_is_empty(romeo: Client) -> None:
    # XEP-0191 example 2 without items
    assert await blocklist(romeo) == set()


async def test_block_unblock_and_unblock_all(romeo: Client) -> None:
    # XEP-0191 examples 4 to 12
    await block(romeo, "romeo@montague.net")
    await block(romeo, "iago@shakespeare.lit", "montague.net", "room@conf.example/nick")
    assert await blocklist(romeo) == {
        "romeo@montague.net",
        "iago@shakespeare.lit",
        "montague.net",
        "room@conf.example/nick",
    }
    assert (await command(romeo, "unblock", "montague.net")).type == "result"
    assert "montague.net" not in await blocklist(romeo)
    assert (await command(romeo, "unblock")).type == "result"
    assert await blocklist(romeo) == set()


async def test_list_survives_logout_and_serves_all_resources(
    clients: Clients, romeo: Client
) -> None:
    await block(romeo, "iago@shakespeare.lit")
    await romeo.close()
    again = await clients.online(romeo)
    assert await blocklist(again) == {"iago@shakespeare.lit"}


async def test_changes_are_pushed_to_resources_that_asked_for_the_list(
    clients: Clients, romeo: Client
) -> None:
    # XEP-0191 example 6: push
    interested = await clients.online(romeo)
    indifferent = await clients.online(romeo)
    await blocklist(interested)
    await block(romeo, "iago@shakespeare.lit")
    push = await interested.expect("iq", type="set")
    assert push.at(("block", ns.BLOCKING), "item").get("jid") == "iago@shakespeare.lit"
    assert push.frm in (None, romeo.bare)
    interested.answer(push)
    await command(romeo, "unblock")
    push = await interested.expect("iq", type="set")
    assert len(push.at(("unblock", ns.BLOCKING))) == 0
    await indifferent.expect_nothing("iq", type="set", after=romeo)


@pytest.mark.parametrize(
    "payload",
    [
        E("block", ns.BLOCKING),
        E("block", ns.BLOCKING, E("item")),
        E("block", ns.BLOCKING, E("item", None, jid="@@")),
        E("unblock", ns.BLOCKING, E("item", None, jid="")),
    ],
    ids=["empty", "no jid", "malformed", "empty jid"],
)
async def test_malformed_command_is_an_error(romeo: Client, payload: Element) -> None:
    # XEP-0191 #block: an empty <block/> is bad-request
    reply = await romeo.iq("set", payload=payload)
    assert reply.type == "error"
    assert reply.condition in ("bad-request", "jid-malformed")


async def test_addresses_are_prepared(romeo: Client) -> None:
    await block(romeo, "IAGO@Shakespeare.LIT")
    assert await blocklist(romeo) == {"iago@shakespeare.lit"}


async def test_another_users_list_is_out_of_reach(romeo: Client, juliet: Client) -> None:
    for kind, name in (("get", "blocklist"), ("set", "block")):
        items = [E("item", None, jid="x@example.org")] if kind == "set" else []
        reply = await romeo.iq(kind, to=juliet.bare, payload=E(name, ns.BLOCKING, *items))
        assert reply.type == "error"
    assert await blocklist(juliet) == set()


# -- what a block does, by form of the blocked address ----------------------------------------


@pytest.mark.parametrize("form", ["full", "bare", "domain", "domain/resource"])
@pytest.mark.deviates(prosody="drops messages to a full JID silently")
async def test_message_of_a_blocked_address_is_refused(
    component: Component, romeo: Client, form: str
) -> None:
    # XEP-0191 #rules: full JID, bare JID, domain/resource, domain
    sender = component.address("iago", "den")
    blocked = {
        "full": sender,
        "bare": component.address("iago"),
        "domain": component.host,
        "domain/resource": f"{component.host}/den",
    }[form]
    if form == "domain/resource":
        sender = blocked
    await block(romeo, blocked)
    component.send(message(romeo.jid, "x", type="chat", from_=sender, id="m1"))
    got = await component.expect("message", id="m1")
    assert (got.type, got.condition) == ("error", "service-unavailable")
    await romeo.expect_nothing("message", within_s=0.05)


async def test_other_resources_of_a_blocked_full_jid_pass(
    component: Component, romeo: Client
) -> None:
    await block(romeo, component.address("iago", "den"))
    component.send(message(romeo.jid, "x", type="chat", from_=component.address("iago", "hall")))
    await romeo.expect("message")


async def test_other_accounts_of_the_domain_pass(component: Component, romeo: Client) -> None:
    await block(romeo, component.address("iago"))
    component.send(message(romeo.jid, "x", type="chat", from_=component.address("cassio", "x")))
    await romeo.expect("message")


# -- inbound, by kind --------------------------------------------------------------------------


SILENT = pytest.mark.deviates(prosody="drops messages to a full JID and groupchat silently")


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        pytest.param("chat", "full", marks=SILENT),
        pytest.param("normal", "full", marks=SILENT),
        pytest.param("groupchat", "full", marks=SILENT),
        pytest.param("groupchat", "bare", marks=SILENT),
        ("chat", "bare"),
        ("normal", "bare"),
    ],
)
async def test_blocked_message_is_service_unavailable(
    romeo: Client, juliet: Client, kind: str, to: str
) -> None:
    # XEP-0191 #rules: the error of an account that is not there
    await block(juliet, romeo.bare)
    romeo.send(message(juliet.jid if to == "full" else juliet.bare, "x", type=kind, id="m1"))
    got = await romeo.expect("message", id="m1")
    assert (got.type, got.condition) == ("error", "service-unavailable")
    await juliet.expect_nothing("message", within_s=0.05)


async def test_blocked_headline_is_silent_or_refused(romeo: Client, juliet: Client) -> None:
    await block(juliet, romeo.bare)
    romeo.send(message(juliet.jid, "x", type="headline"))
    await romeo.sync()
    await juliet.expect_nothing("message", within_s=0.1)


async def test_blocked_error_is_never_answered(romeo: Client, juliet: Client) -> None:
    await block(juliet, romeo.bare)
    error = E("error", None, E("gone", ns.STANZAS), type="cancel")
    romeo.send(message(juliet.jid, error, type="error"))
    await romeo.expect_nothing("message", within_s=0.1)
    await juliet.expect_nothing("message", within_s=0.05)


@pytest.mark.parametrize("kind", ["get", "set"])
async def test_blocked_iq_is_service_unavailable(romeo: Client, juliet: Client, kind: str) -> None:
    await block(juliet, romeo.bare)
    reply = await romeo.iq(kind, to=juliet.jid, payload=E("query", "urn:example:q"))
    assert (reply.type, reply.condition) == ("error", "service-unavailable")
    await juliet.expect_nothing("iq", within_s=0.05)


async def test_blocked_answers_are_dropped(romeo: Client, juliet: Client) -> None:
    await block(juliet, romeo.bare)
    romeo.send(iq("result", to=juliet.jid, id="stray"))
    await romeo.expect_nothing("iq", within_s=0.1)
    await juliet.expect_nothing("iq", within_s=0.05)


@pytest.mark.parametrize("kind", [None, "unavailable", "subscribe", "probe"])
async def test_blocked_presence_is_dropped_silently(
    romeo: Client, juliet: Client, kind: str | None
) -> None:
    # XEP-0191 #rules: presence never answers
    await block(juliet, romeo.bare)
    romeo.send(presence(type=kind, to=juliet.bare))
    await romeo.sync()
    answers = [e for e in romeo.drain() if e.name == "presence"]
    assert all(e.type in ("error", "unsubscribed", "unavailable") for e in answers)
    await juliet.expect_nothing("presence", within_s=0.1)


async def test_blocked_contact_gets_no_presence(couple: tuple[Client, Client]) -> None:
    # XEP-0191 #rules and requirements 12: unavailable at the block, then nothing
    romeo, juliet = couple
    await block(juliet, romeo.bare)
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)
    juliet.send(presence(E("show", None, "away")))
    await juliet.sync()
    await romeo.expect_nothing("presence", within_s=0.1)


async def test_unblocked_contact_gets_current_presence(couple: tuple[Client, Client]) -> None:
    # XEP-0191 #unblock
    romeo, juliet = couple
    await block(juliet, romeo.bare)
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)
    juliet.send(presence(E("show", None, "away")))
    await juliet.sync()
    await command(juliet, "unblock", romeo.bare)
    got = await romeo.expect("presence", type=None, from_=juliet.jid)
    assert got.at("show").text == "away"


async def test_blocked_contact_sees_no_presence_by_probe(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await block(juliet, romeo.bare)
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)
    romeo.send(presence(type="probe", to=juliet.bare))
    await romeo.expect_nothing("presence", type=None, within_s=0.1)


async def test_directed_presence_of_a_blocked_sender_is_dropped(
    romeo: Client, juliet: Client
) -> None:
    await block(juliet, romeo.bare)
    romeo.send(presence(to=juliet.jid))
    await romeo.sync()
    await juliet.expect_nothing("presence", within_s=0.1)


async def test_blocked_message_is_not_stored_offline(clients: Clients, romeo: Client) -> None:
    juliet = await clients.online()
    await block(juliet, romeo.bare)
    await juliet.close()
    romeo.send(message(juliet.bare, "x", type="chat", id="m1"))
    await romeo.expect("message", type="error", id="m1")
    again = await clients.online(juliet)
    await again.expect_nothing("message", within_s=0.1)


# -- outbound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["full", "bare"])
async def test_message_to_a_blocked_address_is_not_acceptable(
    romeo: Client, juliet: Client, to: str
) -> None:
    # XEP-0191 #rules: not-acceptable with <blocked/>
    await block(romeo, juliet.bare)
    romeo.send(message(juliet.jid if to == "full" else juliet.bare, "x", type="chat", id="m1"))
    got = await romeo.expect("message", id="m1")
    assert (got.type, got.error_type, got.condition) == ("error", "cancel", "not-acceptable")
    assert got.at("error").has("blocked", ns.BLOCKING_ERRORS)
    await juliet.expect_nothing("message", within_s=0.05)


async def test_iq_to_a_blocked_address_is_not_acceptable(romeo: Client, juliet: Client) -> None:
    await block(romeo, juliet.bare)
    reply = await romeo.iq("get", to=juliet.jid, payload=E("query", "urn:example:q"))
    assert (reply.type, reply.condition) == ("error", "not-acceptable")
    assert reply.at("error").has("blocked", ns.BLOCKING_ERRORS)


async def test_presence_to_a_blocked_address_does_not_arrive(romeo: Client, juliet: Client) -> None:
    await block(romeo, juliet.bare)
    romeo.send(presence(to=juliet.jid))
    await romeo.sync()
    await juliet.expect_nothing("presence", within_s=0.1)


# -- order and exceptions --------------------------------------------------------------------------


async def test_block_takes_effect_before_the_next_stanza(romeo: Client, juliet: Client) -> None:
    # requirements 12; RFC 6120 §10.1
    romeo.send(iq("set", E("block", ns.BLOCKING, E("item", None, jid=juliet.bare)), id="b"))
    romeo.send(message(juliet.jid, "x", type="chat", id="m1"))
    got = await romeo.expect("message", id="m1")
    assert got.condition == "not-acceptable"


async def test_block_of_the_own_server_leaves_it_usable(romeo: Client) -> None:
    # requirements 12: the own server and the own account cannot be locked out
    await command(romeo, "block", romeo.host, romeo.bare)
    await romeo.sync()
    await romeo.roster()
    await command(romeo, "unblock")
    await romeo.sync()


async def test_unblocked_address_may_write_again(romeo: Client, juliet: Client) -> None:
    await block(juliet, romeo.bare)
    await command(juliet, "unblock", romeo.bare)
    romeo.send(message(juliet.jid, "x", type="chat"))
    await juliet.expect("message")


@pytest.mark.ours("blocked_items")
@pytest.mark.settings(limits={"blocked_items": 5})
async def test_items_above_the_limit_are_refused(romeo: Client) -> None:
    for i in range(5):
        await block(romeo, f"x{i}@example.org")
    reply = await command(romeo, "block", "x5@example.org")
    assert reply.type == "error"
    assert reply.condition in ("resource-constraint", "not-allowed", "policy-violation")
    assert len(await blocklist(romeo)) == 5
