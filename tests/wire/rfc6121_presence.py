# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §4: initial and later presence, probes, directed presence, priorities, the end."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.component import Component
from support.play import Clients
from support.xml import E, Element, message, presence


def show(value: str, **attrs: object) -> Element:
    """A presence with `<show/>`."""
    return presence(E("show", None, value), **attrs)


# -- initial presence (RFC 6121 §4.2) ---------------------------------------------


async def test_own_presence_comes_back_to_the_resource(clients: Clients) -> None:
    # RFC 6121 §4.2.2: also to the user's own available resources, itself included
    client = await clients.bound()
    client.send(presence(E("status", None, "here")))
    got = await client.expect("presence", from_=client.jid)
    assert got.at("status").text == "here"


async def test_contacts_and_own_resources_see_initial_presence(
    clients: Clients, couple: tuple[Client, Client]
) -> None:
    romeo, juliet = couple
    phone = await clients.bound(romeo, "phone")
    phone.send(show("away"))
    for client in (juliet, romeo):
        got = await client.expect("presence", from_=phone.jid)
        assert got.at("show").text == "away"


async def test_new_resource_learns_contacts_and_own_resources(
    clients: Clients, couple: tuple[Client, Client]
) -> None:
    # RFC 6121 §4.2.2 and §4.3: probes of the server are answered
    romeo, juliet = couple
    phone = await clients.bound(romeo, "phone")
    phone.send(presence())
    await phone.expect("presence", from_=juliet.jid, type=None)
    await phone.expect("presence", from_=romeo.jid, type=None)


async def test_stranger_sees_no_presence(romeo: Client, juliet: Client) -> None:
    romeo.send(show("dnd"))
    await juliet.expect_nothing("presence", from_=romeo.jid, after=romeo)


async def test_subscription_in_one_direction_shows_one_direction(
    romeo: Client, juliet: Client
) -> None:
    romeo.send(presence(type="subscribe", to=juliet.bare))
    await juliet.expect("presence", type="subscribe")
    juliet.send(presence(type="subscribed", to=romeo.bare))
    await romeo.expect("presence", from_=juliet.jid)
    juliet.send(show("away"))
    assert (await romeo.expect("presence", from_=juliet.jid)).at("show").text == "away"
    romeo.send(show("dnd"))
    await juliet.expect_nothing("presence", from_=romeo.jid, after=romeo)


async def test_roster_comes_before_contacts_presence(
    couple: tuple[Client, Client], clients: Clients
) -> None:
    # order of a login: roster result first (requirements: login order a client uses)
    romeo, juliet = couple
    phone = await clients.bound(romeo, "phone")
    phone.send_raw("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>")
    assert (await phone.next()).id == "r"
    await phone.expect("presence", from_=juliet.jid)


async def test_presence_keeps_its_payload(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    romeo.send(
        presence(
            E("show", None, "xa"),
            E("status", None, "gone", xml_lang="en"),
            E("status", None, "pryč", xml_lang="cs"),
            E("priority", None, "7"),
            E("x", "urn:example:x", E("y")),
            id="p1",
        )
    )
    got = await juliet.expect("presence", from_=romeo.jid)
    assert [s.text for s in got.all("status")] == ["gone", "pryč"]
    assert got.at("priority").text == "7"
    assert got.at(("x", "urn:example:x"), "y")
    assert got.id == "p1"
    assert got.to in (juliet.bare, juliet.jid)


# -- later presence (RFC 6121 §4.4) ------------------------------------------------


async def test_updates_are_broadcast_without_new_probes(couple: tuple[Client, Client]) -> None:
    # RFC 6121 §4.4.2
    romeo, juliet = couple
    juliet.send(show("away"))
    await romeo.expect("presence", from_=juliet.jid)
    romeo.send(show("dnd"))
    assert (await juliet.expect("presence", from_=romeo.jid)).at("show").text == "dnd"
    await romeo.expect("presence", from_=romeo.jid)
    await romeo.expect_nothing("presence", after=juliet)


async def test_presences_arrive_in_order(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    for i in range(50):
        romeo.send(presence(E("status", None, str(i))))
    seen = [(await juliet.expect("presence", from_=romeo.jid)).at("status").text for _ in range(50)]
    assert seen == [str(i) for i in range(50)]


@pytest.mark.parametrize("priority", ["128", "-129", "abc", "1.5", ""])
@pytest.mark.deviates(prosody="reads a bad priority as 0")
async def test_bad_priority_is_bad_request(romeo: Client, priority: str) -> None:
    # RFC 6121 §4.7.2.3: -128 to 127
    romeo.send(presence(E("priority", None, priority), id="bad"))
    got = await romeo.expect("presence", id="bad")
    assert (got.type, got.condition) == ("error", "bad-request")


@pytest.mark.parametrize("priority", [-128, 0, 127])
async def test_good_priority_is_kept(couple: tuple[Client, Client], priority: int) -> None:
    romeo, juliet = couple
    romeo.send(presence(E("priority", None, str(priority))))
    got = await juliet.expect("presence", from_=romeo.jid)
    assert got.at("priority").text == str(priority)


@pytest.mark.deviates(prosody="drops a presence of unknown type")
async def test_unknown_type_is_bad_request(romeo: Client) -> None:
    # RFC 6121 §4.7.1
    romeo.send(presence(type="foo", id="bad"))
    got = await romeo.expect("presence", id="bad")
    assert (got.type, got.condition) == ("error", "bad-request")


# -- unavailable (RFC 6121 §4.5) ------------------------------------------------------


async def test_unavailable_is_broadcast_with_its_status(couple: tuple[Client, Client]) -> None:
    # RFC 6121 §4.5.2
    romeo, juliet = couple
    romeo.send(presence(E("status", None, "going home"), type="unavailable"))
    got = await juliet.expect("presence", from_=romeo.jid, type="unavailable")
    assert got.at("status").text == "going home"


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_end_of_stream_is_unavailable(couple: tuple[Client, Client], end: str) -> None:
    # RFC 6121 §4.5.2: the server generates it
    romeo, juliet = couple
    if end == "close":
        await romeo.close()
    else:
        romeo.abort()
    await juliet.expect("presence", from_=romeo.jid, type="unavailable")


async def test_unavailable_goes_to_other_own_resources(clients: Clients, romeo: Client) -> None:
    phone = await clients.online(romeo, "phone")
    await romeo.expect("presence", from_=phone.jid)
    phone.send(presence(type="unavailable"))
    await romeo.expect("presence", from_=phone.jid, type="unavailable")


async def test_unavailable_resource_gets_no_presence(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await juliet.offline()
    juliet.drain()
    romeo.send(show("dnd"))
    await juliet.expect_nothing("presence", from_=romeo.jid, after=romeo)


async def test_becoming_available_again_probes_again(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await romeo.offline()
    await juliet.expect("presence", type="unavailable")
    romeo.drain()
    romeo.send(presence())
    await romeo.expect("presence", from_=juliet.jid, type=None)
    await juliet.expect("presence", from_=romeo.jid, type=None)


# -- probes (RFC 6121 §4.3) ------------------------------------------------------------


async def test_probe_of_a_contact_gives_each_resource(
    clients: Clients, couple: tuple[Client, Client]
) -> None:
    # RFC 6121 §4.3.2
    romeo, juliet = couple
    phone = await clients.online(juliet, "phone")
    await romeo.expect("presence", from_=phone.jid)
    romeo.send(presence(type="probe", to=juliet.bare))
    seen = {(await romeo.expect("presence", type=None)).frm for _ in range(2)}
    assert seen == {juliet.jid, phone.jid}


async def test_probe_gives_the_last_presence_whole(
    couple: tuple[Client, Client], component: Component
) -> None:
    romeo, juliet = couple
    juliet.send(presence(E("show", None, "away"), E("x", "urn:example:x")))
    await romeo.expect("presence", from_=juliet.jid)
    romeo.send(presence(type="probe", to=juliet.bare))
    got = await romeo.expect("presence", from_=juliet.jid)
    assert got.at("show").text == "away"
    assert got.has("x", "urn:example:x")


async def test_probe_of_an_offline_contact_gives_no_available_presence(
    couple: tuple[Client, Client],
) -> None:
    # RFC 6121 §4.3.2 case 3: unavailable or nothing
    romeo, juliet = couple
    await juliet.close()
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)
    romeo.send(presence(type="probe", to=juliet.bare))
    await romeo.expect_nothing("presence", type=None)


async def test_probe_of_a_stranger_reveals_nothing(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §4.3.2 case 1: unsubscribed or nothing; the same for an unknown account
    answers = []
    for target in (juliet.bare, f"nobody-at-all@{romeo.host}"):
        romeo.send(presence(type="probe", to=target))
        await romeo.sync()
        got = [(e.type, e.condition) for e in romeo.drain() if e.name == "presence"]
        assert all(kind in ("unsubscribed", "error", "unavailable") for kind, _ in got)
        answers.append(got)
    assert answers[0] == answers[1]
    await juliet.expect_nothing("presence", after=romeo)


async def test_probe_is_never_delivered_to_a_client(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    romeo.send(presence(type="probe", to=juliet.jid))
    await romeo.expect("presence", from_=juliet.jid)
    await juliet.expect_nothing("presence", after=romeo)


@pytest.mark.deviates(prosody="refuses probes of the own account")
async def test_probe_of_own_bare_jid_gives_own_resources(clients: Clients, romeo: Client) -> None:
    phone = await clients.online(romeo, "phone")
    await romeo.expect("presence", from_=phone.jid)
    romeo.send(presence(type="probe", to=romeo.bare))
    seen = {(await romeo.expect("presence")).frm for _ in range(2)}
    assert seen == {romeo.jid, phone.jid}


async def test_remote_contact_is_probed_at_initial_presence(
    clients: Clients, component: Component
) -> None:
    # RFC 6121 §4.3.1: from the user, to each To or Both contact that is not local
    romeo = await clients.online()
    contact = component.address("friend")
    romeo.send(presence(type="subscribe", to=contact))
    await component.expect("presence", type="subscribe")
    component.send(presence(type="subscribed", from_=contact, to=romeo.bare))
    await romeo.expect("presence", type="subscribed")
    await romeo.close()
    component.drain()
    again = await clients.bound(romeo)
    again.send(presence())
    probe = await component.expect("presence", type="probe")
    assert probe.to == contact
    assert (probe.frm or "").startswith(romeo.bare)
    component.send(presence(from_=f"{contact}/here", to=again.bare))
    await again.expect("presence", from_=f"{contact}/here")


async def test_probe_from_a_remote_contact_is_answered(
    clients: Clients, component: Component
) -> None:
    romeo = await clients.online()
    contact = component.address("watcher")
    component.send(presence(type="subscribe", from_=contact, to=romeo.bare))
    await romeo.expect("presence", type="subscribe")
    romeo.send(presence(type="subscribed", to=contact))
    await component.expect("presence", type=None, from_=romeo.jid)
    component.send(presence(type="probe", from_=contact, to=romeo.bare))
    await component.expect("presence", type=None, from_=romeo.jid)


# -- directed presence (RFC 6121 §4.6) -----------------------------------------------


async def test_directed_presence_reaches_a_stranger(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §4.6.3
    romeo.send(show("chat", to=juliet.jid))
    got = await juliet.expect("presence")
    assert (got.frm, got.to, got.at("show").text) == (romeo.jid, juliet.jid, "chat")


async def test_directed_presence_to_a_bare_jid_reaches_all_resources(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    second = await clients.online(juliet)
    romeo.send(presence(to=juliet.bare))
    for client in (juliet, second):
        assert (await client.expect("presence", from_=romeo.jid)).to in (juliet.bare, client.jid)


@pytest.mark.parametrize("end", ["unavailable", "close", "abort"])
async def test_receiver_of_directed_presence_sees_the_end(
    romeo: Client, juliet: Client, end: str
) -> None:
    # RFC 6121 §4.6.3 rule 2; requirements 2.2: also on the loss of the stream
    romeo.send(presence(to=juliet.jid))
    await juliet.expect("presence", from_=romeo.jid)
    if end == "unavailable":
        romeo.send(presence(type="unavailable"))
    elif end == "close":
        await romeo.close()
    else:
        romeo.abort()
    await juliet.expect("presence", from_=romeo.jid, type="unavailable")


async def test_directed_unavailable_ends_the_memory(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §4.6.3 rule 3
    romeo.send(presence(to=juliet.jid))
    await juliet.expect("presence", type=None, from_=romeo.jid)
    romeo.send(presence(to=juliet.jid, type="unavailable"))
    await juliet.expect("presence", type="unavailable", from_=romeo.jid)
    romeo.send(presence(type="unavailable"))
    await juliet.expect_nothing("presence", after=romeo)


async def test_directed_presence_works_before_initial_presence(
    clients: Clients, juliet: Client
) -> None:
    client = await clients.bound()
    client.send(presence(to=juliet.jid))
    await juliet.expect("presence", from_=client.jid)
    client.abort()
    await juliet.expect("presence", from_=client.jid, type="unavailable")


async def test_directed_presence_to_a_component_is_ended_on_loss(
    romeo: Client, component: Component
) -> None:
    # a room behind a component must not keep ghosts
    room = component.address("room", "nick")
    romeo.send(presence(to=room))
    await component.expect("presence", to=room, from_=romeo.jid)
    romeo.abort()
    await component.expect("presence", to=room, type="unavailable", from_=romeo.jid)


async def test_directed_presence_to_a_missing_resource_is_silent(
    romeo: Client, juliet: Client
) -> None:
    # RFC 6121 §8.5.3.2.2
    romeo.send(presence(to=f"{juliet.bare}/gone"))
    await romeo.expect_nothing("presence")


# -- priorities and delivery ------------------------------------------------------------


async def test_negative_priority_gets_no_message_to_the_bare_jid(
    clients: Clients, romeo: Client
) -> None:
    # RFC 6121 §4.7.2.3 and §8.5.2.1.1
    high = await clients.online(priority=1)
    low = await clients.online(high, priority=-1)
    romeo.send(message(high.bare, "hi", type="chat"))
    await high.expect("message")
    await low.expect_nothing("message", after=romeo)


async def test_priority_can_change_at_any_time(clients: Clients, romeo: Client) -> None:
    first = await clients.online(priority=0)
    second = await clients.online(first, priority=-5)
    await second.online(3)
    await first.online(-1)
    romeo.send(message(first.bare, "hi", type="chat"))
    await second.expect("message")
    await first.expect_nothing("message", after=romeo)


async def test_presence_to_a_full_jid_reaches_that_resource_only(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    second = await clients.online(juliet)
    romeo.send(presence(to=juliet.jid))
    await juliet.expect("presence", from_=romeo.jid)
    await second.expect_nothing("presence", from_=romeo.jid, after=romeo)


@pytest.mark.ours("XEP-0203 stamps are for presence that waited; live answers carry none")
async def test_live_presence_has_no_delay(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    romeo.send(show("dnd"))
    got = await juliet.expect("presence", from_=romeo.jid)
    assert not got.has("delay", ns.DELAY)
