# SPDX-License-Identifier: Apache-2.0
import pytest

from antiphon._core import Element, Jid
from antiphon.xmpp import ns
from antiphon.xmpp.disco import Identity, Info
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

HOST = "capulet.example"
JULIET = "juliet@capulet.example"
ROMEO = "romeo@capulet.example/orchard"
GOLDEN = [
    "erlang-solutions.com:xmpp:inbox:0",
    "http://jabber.org/protocol/caps",
    "http://jabber.org/protocol/commands",
    "http://jabber.org/protocol/disco#info",
    "http://jabber.org/protocol/disco#items",
    "http://jabber.org/protocol/rsm",
    "jabber:iq:last",
    "jabber:iq:private",
    "jabber:iq:version",
    "msgoffline",
    "urn:xmpp:archive:auto",
    "urn:xmpp:archive:manage",
    "urn:xmpp:blocking",
    "urn:xmpp:carbons:2",
    "urn:xmpp:carbons:rules:0",
    "urn:xmpp:delay",
    "urn:xmpp:hints",
    "urn:xmpp:message-retract:1",
    "urn:xmpp:message-retract:1#tombstone",
    "urn:xmpp:ping",
    "urn:xmpp:sid:0",
    "urn:xmpp:time",
    "vcard-temp",
]


async def info(h: Harness, to: str, frm: str, node: str | None = None) -> Info:
    answer = await h.iq("get", E("query", ns.DISCO_INFO, node=node), frm=frm, to=to)
    assert answer is not None
    return Info.of(answer)


async def items(
    h: Harness, to: str, frm: str, *children: Element, node: str | None = None
) -> list[str]:
    query = E("query", ns.DISCO_ITEMS, *children, node=node)
    answer = await h.iq("get", query, frm=frm, to=to)
    assert answer is not None
    return [item.get("jid") or "" for item in answer.children if item.name == "item"]


async def test_features_of_a_default_install() -> None:
    found = await info(Harness(), HOST, ROMEO)
    assert sorted(found.features) == GOLDEN
    assert found.identities == (Identity("server", "im", name="Antiphon"),)


async def test_owner_contact_and_stranger_get_three_answers() -> None:
    h = Harness()
    h.core.sees.add((JULIET, "romeo@capulet.example"))
    own = await info(h, JULIET, f"{JULIET}/balcony")
    contact = await info(h, JULIET, ROMEO)
    assert own.identities == contact.identities == (Identity("account", "registered"),)
    assert set(own.features) - set(contact.features) == {
        ns.PRIVATE,
        ns.MAM_2,
        ns.MAM_EXTENDED,
        ns.MAM_GROUPCHAT_FIELD,
        ns.MAM_1,
        ns.MAM_0,
        ns.MAM_TMP,
        ns.FULLTEXT,
        ns.INBOX,
        ns.INBOX_1,
    }
    assert ns.DISCO_INFO in contact.features
    error = await refused(info(h, JULIET, "mallory@evil.example/x"))
    assert error.condition == "service-unavailable"
    # XEP-0030 #security: the same as for an account that does not exist, with a node too.
    for node in (None, "x"):
        error = await refused(info(h, "no@capulet.example", ROMEO, node))
        assert error.condition == "service-unavailable"


async def test_items_of_an_account_are_its_available_resources() -> None:
    h = Harness()
    h.core.sees.add((JULIET, "romeo@capulet.example"))
    h.core.sessions[JULIET] = [
        (Jid(f"{JULIET}/balcony"), 0, None, False),
        (Jid(f"{JULIET}/new"), None, None, False),
    ]
    assert await items(h, JULIET, ROMEO) == [f"{JULIET}/balcony"]
    assert await items(h, JULIET, "mallory@evil.example/x") == []
    assert await items(h, "no@capulet.example", ROMEO, node="x") == []


async def test_items_of_the_host_are_its_components() -> None:
    h = Harness(make_config(components=["b.capulet.example", "a.capulet.example"]))
    assert await items(h, HOST, ROMEO) == ["b.capulet.example", "a.capulet.example"]


async def test_items_come_in_pages() -> None:
    h = Harness(make_config(components=[f"{n}.capulet.example" for n in "abc"]))
    one = E("set", ns.RSM, E("max", ns.RSM, "2"))
    assert await items(h, HOST, ROMEO, one) == ["a.capulet.example", "b.capulet.example"]
    two = E("set", ns.RSM, E("max", ns.RSM, "2"), E("after", ns.RSM, "b.capulet.example"))
    assert await items(h, HOST, ROMEO, two) == ["c.capulet.example"]
    unknown = E("set", ns.RSM, E("after", ns.RSM, "z"))
    assert (await refused(items(h, HOST, ROMEO, unknown))).condition == "item-not-found"


@pytest.mark.parametrize("to", [HOST, JULIET])
async def test_an_unknown_node_is_not_found(to: str) -> None:
    h = Harness()
    own = f"{JULIET}/balcony"
    assert (await refused(info(h, to, own, "no-such-node"))).condition == "item-not-found"
    assert (await refused(items(h, to, own, node="no-such-node"))).condition == "item-not-found"
