# SPDX-License-Identifier: Apache-2.0
"""XEP-0115 Entity Capabilities: the server's own hash, and those of clients passed on."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element, presence


def verification(query: Element) -> str:
    """The SHA-1 verification string of a disco#info result (XEP-0115 #ver-gen)."""
    identities = sorted(
        f"{i.get('category')}/{i.get('type')}/{i.get('xml:lang') or ''}/{i.get('name') or ''}"
        for i in query.all("identity")
    )
    # Sorted without the separator: '#' comes before '<'.
    features = sorted(f.get("var") or "" for f in query.all("feature"))
    forms = sorted(form_text(x) for x in query.all("x", ns.DATA_FORMS))
    text = "".join([*(f"{part}<" for part in identities + features), *forms])
    return b64encode(hashlib.sha1(text.encode()).digest()).decode()


def form_text(form: Element) -> str:
    """The part of one extension form; `FORM_TYPE` first."""
    values = {f.get("var") or "": sorted(v.text for v in f.all("value")) for f in form.all("field")}
    kind = values.pop("FORM_TYPE", [""])[0]
    return f"{kind}<" + "".join(
        f"{name}<" + "".join(f"{v}<" for v in values[name]) for name in sorted(values)
    )


def test_verification_gives_the_hash_of_the_specification() -> None:
    # XEP-0115 #ver-gen-complex: the oracle itself
    query = E(
        "query",
        ns.DISCO_INFO,
        E("identity", None, xml_lang="en", category="client", name="Psi 0.11", type="pc"),
        E("identity", None, xml_lang="el", category="client", name="Ψ 0.11", type="pc"),
        *[
            E("feature", None, var=v)
            for v in (ns.CAPS, ns.DISCO_INFO, ns.DISCO_ITEMS, "http://jabber.org/protocol/muc")
        ],
        E(
            "x",
            ns.DATA_FORMS,
            *[
                E("field", None, *[E("value", None, v) for v in values], var=var)
                for var, values in (
                    ("FORM_TYPE", ["urn:xmpp:dataforms:softwareinfo"]),
                    ("ip_version", ["ipv4", "ipv6"]),
                    ("os", ["Mac"]),
                    ("os_version", ["10.5.1"]),
                    ("software", ["Psi"]),
                    ("software_version", ["0.11"]),
                )
            ],
            type="result",
        ),
    )
    assert verification(query) == "q07IKJEyjvHSyhy//CH0CxmKi8w="


async def test_server_announces_its_own_caps(clients: Clients) -> None:
    # XEP-0115 #stream, example: <c/> in the features
    client = await clients.authenticated()
    caps = client.features.at(("c", ns.CAPS))
    assert caps.get("hash") == "sha-1"
    assert caps.get("node")
    assert caps.get("ver")


async def test_announced_hash_is_that_of_the_disco_answer(clients: Clients) -> None:
    # requirements 2.5: recomputed when features change
    client = await clients.authenticated()
    caps = client.features.at(("c", ns.CAPS))
    await client.bind()
    reply = await client.iq("get", to=client.host, payload=E("query", ns.DISCO_INFO))
    assert verification(reply.at(("query", ns.DISCO_INFO))) == caps.get("ver")


async def test_server_answers_for_its_caps_node(clients: Clients) -> None:
    # XEP-0115 #discover: node#ver
    client = await clients.authenticated()
    caps = client.features.at(("c", ns.CAPS))
    await client.bind()
    node = f"{caps.get('node')}#{caps.get('ver')}"
    reply = await client.iq("get", to=client.host, payload=E("query", ns.DISCO_INFO, node=node))
    assert reply.type == "result"
    query = reply.at(("query", ns.DISCO_INFO))
    assert query.get("node") == node
    assert verification(query) == caps.get("ver")


async def test_wrong_version_of_the_node_is_item_not_found(clients: Clients) -> None:
    client = await clients.authenticated()
    caps = client.features.at(("c", ns.CAPS))
    await client.bind()
    node = f"{caps.get('node')}#AAAAAAAAAAAAAAAAAAAAAAAAAAA="
    reply = await client.iq("get", to=client.host, payload=E("query", ns.DISCO_INFO, node=node))
    assert (reply.type, reply.condition) == ("error", "item-not-found")


CAPS = E(
    "c",
    ns.CAPS,
    hash="sha-1",
    node="http://code.google.com/p/exodus",
    ver="QgayPKawpkPSDYmwT/WM94uAlu0=",
)


async def test_caps_of_a_client_are_passed_on(couple: tuple[Client, Client]) -> None:
    # XEP-0115 #protocol, example 1
    romeo, juliet = couple
    romeo.send(presence(CAPS))
    got = await juliet.expect("presence", from_=romeo.jid)
    assert got.at(("c", ns.CAPS)).canonical() == CAPS.canonical()


async def test_caps_are_in_the_answer_to_a_probe(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    romeo.send(presence(CAPS))
    await juliet.expect("presence", from_=romeo.jid)
    juliet.send(presence(type="probe", to=romeo.bare))
    got = await juliet.expect("presence", from_=romeo.jid)
    assert got.at(("c", ns.CAPS)).get("ver") == CAPS.get("ver")


@pytest.mark.parametrize("attrs", [{"hash": "sha-1"}, {"node": "x"}, {"ver": ""}, {"hash": "md5"}])
async def test_malformed_caps_do_no_harm(
    couple: tuple[Client, Client], attrs: dict[str, str]
) -> None:
    # attack 16
    romeo, juliet = couple
    romeo.send(presence(E("c", ns.CAPS, **attrs)))
    await juliet.expect("presence", from_=romeo.jid)
    await romeo.sync()
