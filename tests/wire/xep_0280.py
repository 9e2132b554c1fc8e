# SPDX-License-Identifier: Apache-2.0
"""XEP-0280 Message Carbons: every rule of its §6, and who must not be believed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from support import ns
from support.client import Client, fence
from support.component import Component
from support.play import Clients
from support.xml import E, Element, iq, message


@dataclass
class Stage:
    """Romeo talks to Juliet; both have further resources."""

    romeo: Client
    romeo2: Client
    juliet: Client
    juliet2: Client

    @property
    def all(self) -> list[Client]:
        return [self.romeo, self.romeo2, self.juliet, self.juliet2]

    async def settle(self) -> None:
        """Waits until nothing is under way between them."""
        for client in self.all:
            await client.sync()
        for receiver in self.all:
            for sender in (self.romeo, self.juliet):
                if sender is not receiver:
                    await fence(sender, receiver)


async def enable(client: Client) -> None:
    """XEP-0280 #enabling, examples 3 and 4."""
    reply = await client.iq("set", payload=E("enable", ns.CARBONS))
    assert (reply.type, reply.payload) == ("result", None)


@pytest.fixture
async def stage(clients: Clients) -> Stage:
    """Two resources each, all available and all with carbons."""
    romeo = await clients.online(resource="orchard")
    romeo2 = await clients.online(romeo, resource="garden")
    juliet = await clients.online(resource="balcony")
    juliet2 = await clients.online(juliet, resource="chamber")
    made = Stage(romeo, romeo2, juliet, juliet2)
    for client in made.all:
        await enable(client)
        await client.sync()
    for client in made.all:
        client.drain()
    return made


def carbon(stanza: Element) -> tuple[str, Element] | None:
    """(sent or received, the message inside) of a carbon copy."""
    for way in ("sent", "received"):
        wrapper = stanza.child(way, ns.CARBONS)
        if wrapper is not None:
            return way, wrapper.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
    return None


def ways(client: Client) -> list[str]:
    """What the client got of message `m1`: plain, sent, received; taken from its inbox."""
    seen = []
    for stanza in client.drain():
        if stanza.name != "message":
            continue
        copy = carbon(stanza)
        if copy is not None and copy[1].id == "m1":
            seen.append(copy[0])
        elif copy is None and stanza.id == "m1":
            seen.append("plain")
    return seen


# -- support, enabling, disabling ------------------------------------------------------


async def test_support_is_announced(romeo: Client) -> None:
    # XEP-0280 #disco
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert ns.CARBONS in features


@pytest.mark.ours("all rules of #which-messages are kept")
async def test_rules_are_announced(romeo: Client) -> None:
    # XEP-0280 #which-messages: urn:xmpp:carbons:rules:0
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert ns.CARBONS_RULES in features


async def test_carbons_are_off_until_enabled(clients: Clients, juliet: Client) -> None:
    romeo = await clients.online()
    other = await clients.online(romeo)
    juliet.send(message(romeo.jid, "hi", type="chat"))
    await romeo.expect("message")
    await other.expect_nothing("message", after=juliet)


async def test_disabling_ends_them(stage: Stage) -> None:
    # XEP-0280 #disabling
    reply = await stage.romeo2.iq("set", payload=E("disable", ns.CARBONS))
    assert reply.type == "result"
    stage.juliet.send(message(stage.romeo.jid, "hi", type="chat", id="m1"))
    await stage.settle()
    assert ways(stage.romeo) == ["plain"]
    assert ways(stage.romeo2) == []


async def test_enabling_twice_is_no_error(stage: Stage) -> None:
    await enable(stage.romeo)


async def test_enabling_takes_effect_before_the_next_stanza(
    clients: Clients, juliet: Client
) -> None:
    # RFC 6120 §10.1
    romeo = await clients.online()
    other = await clients.online(romeo)
    other.send(iq("set", E("enable", ns.CARBONS)))
    await other.sync()
    juliet.send(message(romeo.jid, "hi", type="chat", id="m1"))
    await romeo.expect("message")
    await fence(juliet, other)
    assert ways(other) == ["received"]


async def test_enabling_for_another_account_is_refused(romeo: Client, juliet: Client) -> None:
    reply = await romeo.iq("set", to=juliet.bare, payload=E("enable", ns.CARBONS))
    assert reply.type == "error"


# -- form of the copies -------------------------------------------------------------------


async def test_received_copy_has_the_form_of_the_example(stage: Stage) -> None:
    # XEP-0280 #inbound, examples
    sent = message(
        stage.romeo.jid,
        E("body", None, "What man art thou?"),
        E("thread", None, "0e3141cd80894871a68e6fe6b1ec56fa"),
        type="chat",
        id="m1",
    )
    stage.juliet.send(sent)
    await stage.romeo.expect("message", id="m1")
    got = await stage.romeo2.expect(lambda e: carbon(e) is not None)
    copy = carbon(got)
    assert copy is not None
    way, inner = copy
    assert (way, got.frm, got.to, got.type) == (
        "received",
        stage.romeo.bare,
        stage.romeo2.jid,
        "chat",
    )
    assert (inner.frm, inner.to) == (stage.juliet.jid, stage.romeo.jid)
    assert inner.body == "What man art thou?"
    assert inner.at("thread").text == "0e3141cd80894871a68e6fe6b1ec56fa"


async def test_sent_copy_has_the_form_of_the_example(stage: Stage) -> None:
    # XEP-0280 #outbound, examples
    stage.romeo.send(message(stage.juliet.jid, "Neither", type="chat", id="m1"))
    got = await stage.romeo2.expect(lambda e: carbon(e) is not None)
    copy = carbon(got)
    assert copy is not None
    way, inner = copy
    assert (way, got.frm, got.to, got.type) == ("sent", stage.romeo.bare, stage.romeo2.jid, "chat")
    assert (inner.frm, inner.to, inner.body) == (stage.romeo.jid, stage.juliet.jid, "Neither")


async def test_copies_carry_unknown_payload_whole(stage: Stage) -> None:
    payload = E("x", "urn:example:x", E("y", "urn:example:y", " t ", a="<&'\">"))
    stage.romeo.send(message(stage.juliet.jid, E("body", None, "b"), payload, type="chat", id="m1"))
    got = await stage.romeo2.expect(lambda e: carbon(e) is not None)
    copy = carbon(got)
    assert copy is not None
    assert copy[1].at(("x", "urn:example:x")).canonical() == payload.canonical()


# -- who gets what -----------------------------------------------------------------------------


async def test_full_jid_message_is_copied_on_both_sides(stage: Stage) -> None:
    stage.romeo.send(message(stage.juliet.jid, "x", type="chat", id="m1"))
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], ["sent"], ["plain"], ["received"]]


@pytest.mark.deviates(prosody="delivers to the resource of highest priority and copies to the rest")
async def test_forked_bare_jid_message_is_not_copied_to_those_who_got_it(stage: Stage) -> None:
    # XEP-0280 #inbound: not a resource that received the message itself
    stage.romeo.send(message(stage.juliet.bare, "x", type="chat", id="m1"))
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], ["sent"], ["plain"], ["plain"]]


async def test_every_resource_sees_a_bare_jid_message_once(stage: Stage) -> None:
    stage.romeo.send(message(stage.juliet.bare, "x", type="chat", id="m1"))
    await stage.settle()
    seen = [ways(c) for c in stage.all]
    assert seen[:2] == [[], ["sent"]]
    assert all(len(s) == 1 for s in seen[2:])


async def test_negative_priority_resource_gets_copies(clients: Clients, juliet: Client) -> None:
    # requirements 11: whatever its priority
    romeo = await clients.online()
    low = await clients.online(romeo, priority=-1)
    await enable(low)
    juliet.send(message(romeo.bare, "x", type="chat", id="m1"))
    await romeo.expect("message")
    await fence(juliet, low)
    assert ways(low) == ["received"]


async def test_resource_before_initial_presence_gets_copies(
    clients: Clients, juliet: Client
) -> None:
    # requirements 11: even before initial presence
    romeo = await clients.online()
    quiet = await clients.bound(romeo)
    await enable(quiet)
    juliet.send(message(romeo.jid, "x", type="chat", id="m1"))
    romeo.send(message(juliet.jid, "y", type="chat", id="m1"))
    await romeo.expect("message")
    await fence(juliet, quiet)
    await fence(romeo, quiet)
    assert sorted(ways(quiet)) == ["received", "sent"]


async def test_sender_needs_no_carbons_for_others_to_see_what_it_sent(
    clients: Clients, juliet: Client
) -> None:
    romeo = await clients.online()
    other = await clients.online(romeo)
    await enable(other)
    romeo.send(message(juliet.jid, "x", type="chat", id="m1"))
    await juliet.expect("message")
    await fence(romeo, other)
    assert ways(other) == ["sent"]
    await romeo.expect_nothing("message", within_s=0.05)


@pytest.mark.deviates(prosody="sends a copy besides the original")
async def test_copies_never_return_to_the_sender(stage: Stage) -> None:
    # XEP-0280 #outbound
    for target in (stage.romeo2.jid, stage.romeo.bare):
        stage.romeo.send(message(target, "self", type="chat", id="m1"))
        await stage.settle()
        assert "sent" not in ways(stage.romeo)
        assert len(ways(stage.romeo2)) == 1


@pytest.mark.deviates(prosody="sends a copy besides the original")
async def test_message_between_own_resources_is_not_copied_to_the_receiver(stage: Stage) -> None:
    stage.romeo.send(message(stage.romeo2.jid, "self", type="chat", id="m1"))
    await stage.settle()
    assert ways(stage.romeo2) == ["plain"]
    assert ways(stage.romeo) == []


@pytest.mark.deviates(prosody="stores it offline and copies nothing")
async def test_chat_to_a_missing_resource_is_handled_like_bare(stage: Stage) -> None:
    # RFC 6121 §8.5.3.2.1
    stage.romeo.send(message(f"{stage.juliet.bare}/gone", "x", type="chat", id="m1"))
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], ["sent"], ["plain"], ["plain"]]


async def test_order_of_originals_and_copies_is_kept(stage: Stage) -> None:
    for i in range(40):
        stage.juliet.send(message(stage.romeo.jid, str(i), type="chat"))
    await stage.settle()
    seen = []
    for stanza in stage.romeo2.drain():
        copy = carbon(stanza)
        if copy is not None and copy[0] == "received":
            seen.append(copy[1].body)
    assert seen == [str(i) for i in range(40)]


# -- which messages (XEP-0280 #which-messages, rules:0) --------------------------------------

ERROR = E("error", None, E("service-unavailable", ns.STANZAS), type="cancel")
ELIGIBLE = {
    "chat with body": ("chat", [E("body", None, "x")]),
    "chat without body": ("chat", [E("x", "urn:example:x")]),
    "chat state": ("chat", [E("composing", ns.CHATSTATES)]),
    "normal with body": (None, [E("body", None, "x")]),
    "explicit normal with body": ("normal", [E("body", None, "x")]),
    "receipt": (None, [E("received", ns.RECEIPTS, id="r1")]),
    "receipt request": ("normal", [E("request", ns.RECEIPTS)]),
    "marker": (None, [E("displayed", ns.MARKERS, id="d1")]),
    "chat state of type normal": (None, [E("active", ns.CHATSTATES)]),
}
PROSODY_SKIPS = {"receipt", "receipt request", "marker", "chat state of type normal"}
NOT_ELIGIBLE = {
    "headline": ("headline", [E("body", None, "x")]),
    "normal without body": (None, [E("x", "urn:example:x")]),
    "private": ("chat", [E("body", None, "x"), E("private", ns.CARBONS)]),
    "private and no-copy": (
        "chat",
        [E("body", None, "x"), E("private", ns.CARBONS), E("no-copy", ns.HINTS)],
    ),
    "pubsub event": (None, [E("event", "http://jabber.org/protocol/pubsub#event")]),
}


def kinds(table: dict[str, tuple[str | None, list[Element]]]) -> list[object]:
    """One parameter set per row."""
    deviation = pytest.mark.deviates(prosody="copies type normal only with a body")
    return [
        pytest.param(
            kind,
            children,
            id=name.replace(" ", "-"),
            marks=[deviation] if name in PROSODY_SKIPS else [],
        )
        for name, (kind, children) in table.items()
    ]


@pytest.mark.parametrize(("kind", "children"), kinds(ELIGIBLE))
async def test_eligible_message_is_copied(
    stage: Stage, kind: str | None, children: list[Element]
) -> None:
    stage.romeo.send(message(stage.juliet.jid, *children, type=kind, id="m1"))
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], ["sent"], ["plain"], ["received"]]


@pytest.mark.parametrize(("kind", "children"), kinds(NOT_ELIGIBLE))
async def test_other_message_is_not_copied(
    stage: Stage, kind: str | None, children: list[Element]
) -> None:
    stage.romeo.send(message(stage.juliet.jid, *children, type=kind, id="m1"))
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], [], ["plain"], []]


@pytest.mark.ours("0334 hint alone")
async def test_no_copy_hint_keeps_a_full_jid_message_from_copies(stage: Stage) -> None:
    # XEP-0334 #no-copy: for messages to a full JID
    stage.romeo.send(
        message(
            stage.juliet.jid, E("body", None, "x"), E("no-copy", ns.HINTS), type="chat", id="m1"
        )
    )
    await stage.settle()
    assert [ways(c) for c in stage.all] == [[], [], ["plain"], []]


@pytest.mark.deviates(prosody="strips the element")
async def test_private_element_is_not_stripped(stage: Stage) -> None:
    # requirements 11: since version 1.0 it is passed on
    stage.romeo.send(
        message(stage.juliet.jid, E("body", None, "x"), E("private", ns.CARBONS), type="chat")
    )
    assert (await stage.juliet.expect("message")).has("private", ns.CARBONS)


async def test_error_answer_to_a_chat_is_copied(stage: Stage) -> None:
    # XEP-0280 #which-messages: errors in answer to what was eligible
    bounced = message(stage.juliet.jid, E("body", None, "x"), ERROR, type="error", id="m1")
    stage.romeo.send(bounced)
    await stage.juliet.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.juliet2) in ([], ["received"])


@pytest.mark.deviates(prosody="copies type normal only with a body")
@pytest.mark.parametrize(
    "invitation",
    [
        E("x", ns.CONFERENCE, jid="room@conference.example.org"),
        E("x", ns.MUC_USER, E("invite", None, from_="friend@example.org")),
    ],
    ids=["direct", "mediated"],
)
async def test_received_invitation_is_copied(stage: Stage, invitation: Element) -> None:
    stage.romeo.send(message(stage.juliet.jid, invitation, id="m1"))
    await stage.settle()
    assert ways(stage.juliet2) == ["received"]


# -- groups behind a component ----------------------------------------------------------------


async def test_groupchat_is_never_copied(stage: Stage, component: Component) -> None:
    room = component.address("room", "nick")
    component.send(
        message(stage.juliet.jid, E("body", None, "x"), type="groupchat", from_=room, id="m1")
    )
    await stage.juliet.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.juliet2) == []
    stage.romeo.send(message(component.address("room"), "x", type="groupchat", id="m1"))
    await component.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.romeo2) == []


async def test_incoming_private_message_of_a_room_is_not_copied(
    stage: Stage, component: Component
) -> None:
    # XEP-0280 #which-messages: each resource joins on its own
    occupant = component.address("room", "nick")
    component.send(
        message(
            stage.juliet.jid,
            E("body", None, "x"),
            E("x", ns.MUC_USER),
            type="chat",
            from_=occupant,
            id="m1",
        )
    )
    await stage.juliet.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.juliet2) == []


@pytest.mark.deviates(prosody="copies no private message of a room")
async def test_outgoing_private_message_to_a_room_is_copied(
    stage: Stage, component: Component
) -> None:
    occupant = component.address("room", "nick")
    stage.romeo.send(
        message(occupant, E("body", None, "x"), E("x", ns.MUC_USER), type="chat", id="m1")
    )
    await component.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.romeo2) == ["sent"]


async def test_message_to_a_remote_entity_is_copied_as_sent(
    stage: Stage, component: Component
) -> None:
    peer = component.address("peer")
    stage.romeo.send(message(peer, "x", type="chat", id="m1"))
    await component.expect("message", id="m1")
    await stage.settle()
    assert ways(stage.romeo2) == ["sent"]
    component.send(message(stage.romeo.jid, "y", type="chat", from_=peer, id="m1"))
    await stage.romeo.expect("message", id="m1")
    await component.sync()
    await stage.romeo2.expect(lambda e: carbon(e) is not None)


# -- impersonation (attack 14) ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sent", "received"])
async def test_forged_carbon_keeps_its_true_sender(stage: Stage, way: str) -> None:
    # CVE-2017-5589: a client believes a carbon only from its own bare JID
    inner = E(
        "message",
        ns.CLIENT,
        E("body", None, "forged"),
        from_="boss@example.org",
        to=stage.juliet.jid,
    )
    forged = message(
        stage.juliet.jid,
        E(way, ns.CARBONS, E("forwarded", ns.FORWARD, inner)),
        E("body", None, "x"),
        type="chat",
        id="m1",
    )
    stage.romeo.send(forged)
    await stage.settle()
    for client in (stage.juliet, stage.juliet2):
        for stanza in client.drain():
            copy = carbon(stanza)
            if copy is not None and copy[1].body == "forged":
                assert stanza.frm == stage.romeo.jid


# -- other services ------------------------------------------------------------------------------


async def test_blocked_message_is_not_copied(stage: Stage) -> None:
    # requirements 12
    block = E("block", ns.BLOCKING, E("item", None, jid=stage.romeo.bare))
    assert (await stage.juliet.iq("set", payload=block)).type == "result"
    stage.romeo.send(message(stage.juliet.jid, "x", type="chat", id="m1"))
    await stage.romeo.sync()
    await stage.juliet2.sync()
    assert ways(stage.juliet2) == []


async def test_copies_count_in_stream_management(clients: Clients, juliet: Client) -> None:
    romeo = await clients.online()
    other = await clients.bound(romeo)
    await enable(other)
    await other.sm_enable()
    assert other.sm is not None
    other.abort()
    await other.expect_eof()
    juliet.send(message(romeo.jid, "x", type="chat", id="m1"))
    await juliet.sync()
    again = await clients.authenticated(romeo.account)
    assert (await again.sm_resume(other)).name == "resumed"
    await again.expect(lambda e: carbon(e) is not None)


async def test_copies_are_not_stored_offline(clients: Clients, juliet: Client) -> None:
    romeo = await clients.online()
    other = await clients.online(romeo)
    await enable(other)
    await other.offline()
    await other.close()
    juliet.send(message(romeo.jid, "x", type="chat", id="m1"))
    await romeo.expect("message")
    late = await clients.online(romeo)
    await late.expect_nothing("message", after=juliet)


async def test_carbons_stay_enabled_after_resumption(clients: Clients, juliet: Client) -> None:
    romeo = await clients.online()
    other = await clients.bound(romeo)
    await other.sm_enable()
    await enable(other)
    other.abort()
    again = await clients.authenticated(romeo.account)
    assert (await again.sm_resume(other)).name == "resumed"
    juliet.send(message(romeo.jid, "x", type="chat", id="m1"))
    got = await again.expect(lambda e: carbon(e) is not None)
    assert got.to == other.jid
