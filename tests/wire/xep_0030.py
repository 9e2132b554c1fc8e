# SPDX-License-Identifier: Apache-2.0
"""XEP-0030 Service Discovery: what the host, the account and others say, and to whom."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, Element


async def info(client: Client, to: str | None, node: str | None = None) -> Element:
    """The answer to a disco#info request."""
    return await client.iq("get", to=to, payload=E("query", ns.DISCO_INFO, node=node))


def features(reply: Element) -> set[str | None]:
    """The features of a disco#info result."""
    return {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}


def identities(reply: Element) -> set[tuple[str | None, str | None]]:
    """(category, type) of every identity."""
    query = reply.at(("query", ns.DISCO_INFO))
    return {(i.get("category"), i.get("type")) for i in query.all("identity")}


async def test_server_has_an_identity_and_announces_disco(romeo: Client) -> None:
    # XEP-0030 #info-basic, example 2; both features are a MUST
    reply = await info(romeo, romeo.host)
    assert reply.type == "result"
    assert ("server", "im") in identities(reply)
    assert {ns.DISCO_INFO, ns.DISCO_ITEMS} <= features(reply)


async def test_server_announces_what_it_does(romeo: Client) -> None:
    found = features(await info(romeo, romeo.host))
    assert {ns.PING, ns.VERSION, ns.TIME, ns.VCARD, ns.CARBONS, ns.BLOCKING} <= found


@pytest.mark.ours("the golden list of a default node")
async def test_features_of_a_default_node(romeo: Client) -> None:
    # requirements 2.5: a golden file of the features of a default install
    found = features(await info(romeo, romeo.host))
    assert {
        ns.DISCO_INFO,
        ns.DISCO_ITEMS,
        ns.BLOCKING,
        ns.CARBONS,
        ns.CARBONS_RULES,
        ns.COMMANDS,
        ns.DELAY,
        ns.HINTS,
        ns.LAST,
        ns.PING,
        ns.TIME,
        ns.VCARD,
        ns.VERSION,
        "msgoffline",
    } <= found
    assert ns.REGISTER not in found  # off by default


async def test_features_are_listed_once(romeo: Client) -> None:
    reply = await info(romeo, romeo.host)
    names = [f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")]
    assert len(names) == len(set(names))


async def test_unknown_node_is_item_not_found(romeo: Client) -> None:
    # XEP-0030 #info-nodes, #errors
    reply = await info(romeo, romeo.host, "no-such-node")
    assert (reply.type, reply.condition) == ("error", "item-not-found")


@pytest.mark.deviates(prosody="does not announce disco itself on the account")
async def test_own_account_is_a_registered_account(romeo: Client) -> None:
    # requirements 2.5: identity account/registered on the bare JID
    for to in (romeo.bare, None):
        reply = await info(romeo, to)
        assert reply.type == "result"
        assert ("account", "registered") in identities(reply)
        assert ns.DISCO_INFO in features(reply)


async def test_contact_with_a_subscription_may_ask_the_account(
    couple: tuple[Client, Client],
) -> None:
    romeo, juliet = couple
    reply = await info(romeo, juliet.bare)
    assert reply.type == "result"
    assert ("account", "registered") in identities(reply)


@pytest.mark.deviates(prosody="answers strangers that the account is registered")
async def test_stranger_learns_nothing_of_an_account(romeo: Client, juliet: Client) -> None:
    # XEP-0030 #security; requirements 2.5: like an account that does not exist
    answers = [await info(romeo, jid) for jid in (juliet.bare, f"nobody-at-all@{romeo.host}")]
    assert [(a.type, a.condition) for a in answers] == [("error", "service-unavailable")] * 2
    assert answers[0].error_type == answers[1].error_type


async def test_request_to_a_full_jid_is_the_clients_affair(romeo: Client, juliet: Client) -> None:
    # XEP-0030 #info-basic between clients
    romeo.send(E("iq", ns.CLIENT, E("query", ns.DISCO_INFO), type="get", to=juliet.jid, id="d1"))
    asked = await juliet.expect("iq", id="d1")
    identity = E("identity", None, category="client", type="pc", name="test")
    juliet.answer(asked, E("query", ns.DISCO_INFO, identity))
    assert ("client", "pc") in identities(await romeo.expect("iq", id="d1"))


async def test_items_of_the_server_name_its_components(romeo: Client, server: Server) -> None:
    # XEP-0030 #items-basic, example 18
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_ITEMS))
    assert reply.type == "result"
    jids = {i.get("jid") for i in reply.at(("query", ns.DISCO_ITEMS)).all("item")}
    assert server.component_domain in jids


async def test_items_of_the_own_account_may_be_empty(romeo: Client) -> None:
    # XEP-0030 #items-basic: an empty result, no error
    reply = await romeo.iq("get", to=romeo.bare, payload=E("query", ns.DISCO_ITEMS))
    assert reply.type == "result"


async def test_items_of_a_strangers_account_reveal_nothing(romeo: Client, juliet: Client) -> None:
    for jid in (juliet.bare, f"nobody-at-all@{romeo.host}"):
        reply = await romeo.iq("get", to=jid, payload=E("query", ns.DISCO_ITEMS))
        if reply.type == "error":
            assert reply.condition == "service-unavailable"
        else:
            assert len(reply.at(("query", ns.DISCO_ITEMS))) == 0


@pytest.mark.parametrize("namespace", [ns.DISCO_INFO, ns.DISCO_ITEMS])
async def test_set_is_refused(romeo: Client, namespace: str) -> None:
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", namespace))
    assert reply.type == "error"


async def test_each_domain_answers_for_itself(clients: Clients, server: Server) -> None:
    other = await clients.online(server.account(server.settings.domains[-1]))
    reply = await info(other, other.host)
    assert reply.frm == other.host
    assert ("server", "im") in identities(reply)
