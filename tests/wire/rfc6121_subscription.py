# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §3 and Appendix A: every row of the subscription tables, and pre-approval.

The contact lives at a component, whose server side has no state of its own, so that each of
the nine states can be made and each of the eight stanzas sent in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from support import ns
from support.client import Client
from support.component import Component
from support.play import Clients
from support.xml import E, presence

STATES = ["None", "None+PO", "None+PI", "None+PO+PI", "To", "To+PI", "From", "From+PO", "Both"]
# How each state is reached: `>` is what the user sends, `<` what the contact sends.
PATHS = {
    "None": "",
    "None+PO": ">subscribe",
    "None+PI": "<subscribe",
    "None+PO+PI": ">subscribe <subscribe",
    "To": ">subscribe <subscribed",
    "To+PI": ">subscribe <subscribed <subscribe",
    "From": "<subscribe >subscribed",
    "From+PO": "<subscribe >subscribed >subscribe",
    "Both": "<subscribe >subscribed >subscribe <subscribed",
}
# RFC 6121 §A.2: (state, stanza) → (routed to the contact?, new state)
OUT = {
    "subscribe": {
        "None": (True, "None+PO"),
        "None+PO": (True, "None+PO"),
        "None+PI": (True, "None+PO+PI"),
        "None+PO+PI": (True, "None+PO+PI"),
        "To": (True, "To"),
        "To+PI": (True, "To+PI"),
        "From": (True, "From+PO"),
        "From+PO": (True, "From+PO"),
        "Both": (True, "Both"),
    },
    "unsubscribe": {
        "None": (True, "None"),
        "None+PO": (True, "None"),
        "None+PI": (True, "None+PI"),
        "None+PO+PI": (True, "None+PI"),
        "To": (True, "None"),
        "To+PI": (True, "None+PI"),
        "From": (True, "From"),
        "From+PO": (True, "From"),
        "Both": (True, "From"),
    },
    "subscribed": {
        "None": (False, "None"),
        "None+PO": (False, "None+PO"),
        "None+PI": (True, "From"),
        "None+PO+PI": (True, "From+PO"),
        "To": (False, "To"),
        "To+PI": (True, "Both"),
        "From": (False, "From"),
        "From+PO": (False, "From+PO"),
        "Both": (False, "Both"),
    },
    "unsubscribed": {
        "None": (False, "None"),
        "None+PO": (False, "None+PO"),
        "None+PI": (True, "None"),
        "None+PO+PI": (True, "None+PO"),
        "To": (False, "To"),
        "To+PI": (True, "To"),
        "From": (True, "None"),
        "From+PO": (True, "None+PO"),
        "Both": (True, "To"),
    },
}
# RFC 6121 §A.3: (state, stanza) → (delivered to the user?, answered for him?, new state)
IN = {
    "subscribe": {
        "None": (True, False, "None+PI"),
        "None+PO": (True, False, "None+PO+PI"),
        "None+PI": (False, False, "None+PI"),
        "None+PO+PI": (False, False, "None+PO+PI"),
        "To": (True, False, "To+PI"),
        "To+PI": (False, False, "To+PI"),
        "From": (False, True, "From"),
        "From+PO": (False, True, "From+PO"),
        "Both": (False, True, "Both"),
    },
    "unsubscribe": {
        "None": (False, False, "None"),
        "None+PO": (False, False, "None+PO"),
        "None+PI": (True, False, "None"),
        "None+PO+PI": (True, False, "None+PO"),
        "To": (False, False, "To"),
        "To+PI": (True, False, "To"),
        "From": (True, False, "None"),
        "From+PO": (True, False, "None+PO"),
        "Both": (True, False, "To"),
    },
    "subscribed": {
        "None": (False, False, "None"),
        "None+PO": (True, False, "To"),
        "None+PI": (False, False, "None+PI"),
        "None+PO+PI": (True, False, "To+PI"),
        "To": (False, False, "To"),
        "To+PI": (False, False, "To+PI"),
        "From": (False, False, "From"),
        "From+PO": (True, False, "Both"),
        "Both": (False, False, "Both"),
    },
    "unsubscribed": {
        "None": (False, False, "None"),
        "None+PO": (True, False, "None"),
        "None+PI": (False, False, "None+PI"),
        "None+PO+PI": (True, False, "None+PI"),
        "To": (True, False, "None"),
        "To+PI": (True, False, "None+PI"),
        "From": (False, False, "From"),
        "From+PO": (True, False, "From"),
        "Both": (True, False, "From"),
    },
}
PROSODY = {
    ("subscribed", state): "routes an approval that changes nothing"
    for state in ("From", "From+PO", "Both")
}
SUBSCRIPTION = ("subscribe", "subscribed", "unsubscribe", "unsubscribed")


@dataclass
class Pair:
    """A user and the contact at the component."""

    user: Client
    component: Component
    contact: str

    def user_sends(self, kind: str) -> None:
        self.user.send(presence(type=kind, to=self.contact, id=f"out-{kind}"))

    def contact_sends(self, kind: str) -> None:
        self.component.send(
            presence(type=kind, from_=self.contact, to=self.user.bare, id=f"in-{kind}")
        )

    async def settle(self) -> None:
        """Waits until both sides' stanzas have been handled and delivered."""
        await self.user.sync()
        await self.component.sync()
        await self.user.sync()
        await self.component.sync()

    async def reach(self, state: str) -> None:
        """Brings the pair into a state and forgets what was received."""
        for step in PATHS[state].split():
            if step[0] == ">":
                self.user_sends(step[1:])
            else:
                self.contact_sends(step[1:])
            await self.settle()
        self.user.drain()
        self.component.drain()

    def routed(self) -> list[str | None]:
        """The subscription stanzas that the contact has received since, in order."""
        return [
            e.type
            for e in self.component.drain()
            if e.name == "presence" and e.type in SUBSCRIPTION and e.to == self.contact
        ]

    def delivered(self) -> list[str | None]:
        """The subscription stanzas that the user has received since."""
        return [
            e.type for e in self.user.drain() if e.name == "presence" and e.type in SUBSCRIPTION
        ]

    async def state(self, clients: Clients) -> str:
        """The state as the user's next login sees it: roster and redelivered request."""
        again = await clients.bound(self.user)
        query = (await again.roster()).at(("query", ns.ROSTER))
        item = next((i for i in query.all("item") if i.get("jid") == self.contact), None)
        name = "None" if item is None else (item.get("subscription") or "none").capitalize()
        if item is not None and item.get("ask") == "subscribe":
            name += "+PO"
        await again.online()
        await again.sync()
        if any(e.type == "subscribe" and e.frm == self.contact for e in again.drain()):
            name += "+PI"
        again.abort()
        return name


@pytest.fixture
def pair(romeo: Client, component: Component) -> Pair:
    """Romeo and a contact that has no state."""
    return Pair(romeo, component, component.address(f"contact-{romeo.user}"))


def rows(table: Mapping[str, Mapping[str, tuple[object, ...]]]) -> list[object]:
    """One parameter set per cell, named after it."""
    return [
        pytest.param(
            kind,
            state,
            cell,
            id=f"{kind}-in-{state}",
            marks=[pytest.mark.deviates(prosody=PROSODY[kind, state])]
            if table is OUT and (kind, state) in PROSODY
            else [],
        )
        for kind, column in table.items()
        for state, cell in column.items()
    ]


@pytest.mark.parametrize(("kind", "state", "outcome"), rows(OUT))
async def test_outbound(
    clients: Clients, pair: Pair, kind: str, state: str, outcome: tuple[bool, str]
) -> None:
    # RFC 6121 §A.2
    routed, new = outcome
    await pair.reach(state)
    assert await pair.state(clients) == state
    pair.component.drain()
    pair.user_sends(kind)
    await pair.settle()
    assert pair.routed() == ([kind] if routed else [])
    assert await pair.state(clients) == new


@pytest.mark.parametrize(("kind", "state", "outcome"), rows(IN))
async def test_inbound(
    clients: Clients, pair: Pair, kind: str, state: str, outcome: tuple[bool, bool, str]
) -> None:
    # RFC 6121 §A.3
    delivered, answered, new = outcome
    await pair.reach(state)
    pair.contact_sends(kind)
    await pair.settle()
    assert pair.delivered() == ([kind] if delivered else [])
    assert pair.routed() == (["subscribed"] if answered else [])
    assert await pair.state(clients) == new


# -- stamps, pushes, presence ------------------------------------------------------


async def test_subscription_is_stamped_with_the_bare_jid(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §3.1.2
    romeo.send(presence(type="subscribe", to=juliet.jid, id="xk3h1v69"))
    got = await juliet.expect("presence", type="subscribe")
    assert (got.frm, got.to) == (romeo.bare, juliet.bare)


async def test_request_pushes_ask(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §3.1.2, example of the push
    romeo.send(presence(type="subscribe", to=juliet.bare))
    await romeo.push(juliet.bare, subscription="none", ask="subscribe")


async def test_approval_pushes_to_both_and_shows_presence(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §3.1.5 and §3.1.6
    romeo.send(presence(type="subscribe", to=juliet.bare))
    await romeo.push(juliet.bare, ask="subscribe")
    await juliet.expect("presence", type="subscribe")
    juliet.send(presence(type="subscribed", to=romeo.bare))
    await juliet.push(romeo.bare, subscription="from")
    await romeo.push(juliet.bare, subscription="to", ask=None)
    await romeo.expect("presence", type="subscribed", from_=juliet.bare)
    await romeo.expect("presence", type=None, from_=juliet.jid)


async def test_denial_clears_ask(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §3.2
    romeo.send(presence(type="subscribe", to=juliet.bare))
    await romeo.push(juliet.bare, ask="subscribe")
    await juliet.expect("presence", type="subscribe")
    juliet.send(presence(type="unsubscribed", to=romeo.bare))
    await romeo.expect("presence", type="unsubscribed", from_=juliet.bare)
    await romeo.push(juliet.bare, subscription="none", ask=None)


async def test_cancelling_shows_unavailable(couple: tuple[Client, Client]) -> None:
    # RFC 6121 §3.2.1: the contact's server sends unavailable for each resource
    romeo, juliet = couple
    juliet.send(presence(type="unsubscribed", to=romeo.bare))
    await romeo.expect("presence", type="unsubscribed", from_=juliet.bare)
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)
    await romeo.push(juliet.bare, subscription="from")
    await juliet.push(romeo.bare, subscription="to")
    juliet.send(presence(E("show", None, "away")))
    await romeo.expect_nothing("presence", after=juliet)


@pytest.mark.deviates(prosody="sends no unavailable presence then")
async def test_unsubscribing_shows_unavailable(couple: tuple[Client, Client]) -> None:
    # RFC 6121 §3.3.3
    romeo, juliet = couple
    romeo.send(presence(type="unsubscribe", to=juliet.bare))
    await juliet.expect("presence", type="unsubscribe", from_=romeo.bare)
    await romeo.push(juliet.bare, subscription="from")
    await juliet.push(romeo.bare, subscription="to")
    await romeo.expect("presence", type="unavailable", from_=juliet.jid)


async def test_request_keeps_its_payload(romeo: Client, juliet: Client) -> None:
    romeo.send(presence(E("status", None, "let me in"), type="subscribe", to=juliet.bare))
    got = await juliet.expect("presence", type="subscribe")
    assert got.at("status").text == "let me in"


async def test_stored_request_is_redelivered_at_each_login_with_its_payload(
    clients: Clients, romeo: Client
) -> None:
    # RFC 6121 §3.1.3 case 4; requirements 2.2
    account = clients.server.account()
    romeo.send(presence(E("status", None, "please"), type="subscribe", to=account.jid))
    await romeo.sync()
    for _ in range(2):
        juliet = await clients.bound(account)
        await juliet.roster()
        await juliet.online()
        got = await juliet.expect("presence", type="subscribe")
        assert got.frm == romeo.bare
        assert got.at("status").text == "please"
        await juliet.close()


async def test_repeated_requests_are_stored_once(clients: Clients, romeo: Client) -> None:
    # one copy per contact
    account = clients.server.account()
    for _ in range(3):
        romeo.send(presence(type="subscribe", to=account.jid))
    await romeo.sync()
    juliet = await clients.online(account)
    await juliet.expect("presence", type="subscribe")
    await juliet.expect_nothing("presence", type="subscribe", after=romeo)


async def test_request_reaches_every_available_resource(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    second = await clients.online(juliet)
    romeo.send(presence(type="subscribe", to=juliet.bare))
    for client in (juliet, second):
        await client.expect("presence", type="subscribe", from_=romeo.bare)


async def test_request_to_an_unknown_account_is_silent(romeo: Client) -> None:
    # RFC 6121 §3.1.3 case 1: ignored; nothing that an available account would send
    romeo.send(presence(type="subscribe", to=f"nobody-at-all@{romeo.host}"))
    await romeo.sync()
    answers = [e for e in romeo.drain() if e.name == "presence"]
    assert all(e.type in ("unsubscribed", "unavailable", "error") for e in answers)


async def test_state_survives_logout_of_both(
    clients: Clients, couple: tuple[Client, Client]
) -> None:
    romeo, juliet = couple
    await romeo.close()
    await juliet.close()
    again = await clients.online(romeo)
    query = (await again.roster()).at(("query", ns.ROSTER), "item")
    assert (query.get("jid"), query.get("subscription")) == (juliet.bare, "both")


async def test_approval_while_the_asker_is_offline_is_kept(
    clients: Clients, juliet: Client
) -> None:
    romeo = await clients.online()
    romeo.send(presence(type="subscribe", to=juliet.bare))
    await juliet.expect("presence", type="subscribe")
    await romeo.close()
    juliet.send(presence(type="subscribed", to=romeo.bare))
    await juliet.sync()
    again = await clients.bound(romeo)
    item = (await again.roster()).at(("query", ns.ROSTER), "item")
    assert (item.get("subscription"), item.get("ask")) == ("to", None)
    again.send(presence())
    await again.expect("presence", type=None, from_=juliet.jid)


async def test_subscription_to_oneself_changes_nothing(romeo: Client) -> None:
    for kind in SUBSCRIPTION:
        romeo.send(presence(type=kind, to=romeo.bare))
    await romeo.sync()
    query = (await romeo.roster()).at(("query", ns.ROSTER))
    assert all(i.get("subscription") in ("none", None) for i in query.all("item"))


# -- pre-approval (RFC 6121 §3.4) ----------------------------------------------------


async def test_pre_approval_is_announced(clients: Clients) -> None:
    # RFC 6121 §3.4.1
    client = await clients.authenticated()
    assert client.features.has("sub", ns.PRE_APPROVAL)


@pytest.mark.deviates(prosody="keeps a pre-approval without showing it in the push")
async def test_pre_approval_is_pushed_and_answers_a_later_request(pair: Pair) -> None:
    # RFC 6121 §3.4.2
    pair.user_sends("subscribed")
    await pair.user.push(pair.contact, approved="true", subscription="none")
    await pair.settle()
    assert pair.routed() == []
    pair.contact_sends("subscribe")
    item = await pair.user.push(pair.contact, subscription="from")
    assert item.get("ask") is None
    await pair.settle()
    assert pair.routed() == ["subscribed"]
    assert pair.delivered() == []


async def test_approved_contact_sees_presence_at_once(pair: Pair) -> None:
    pair.user_sends("subscribed")
    await pair.settle()
    pair.component.drain()
    pair.contact_sends("subscribe")
    await pair.component.expect("presence", type="subscribed", from_=pair.user.bare)
    await pair.component.expect("presence", type=None, from_=pair.user.jid, to=pair.contact)


@pytest.mark.deviates(prosody="keeps a pre-approval without showing it in the push")
async def test_unsubscribed_cancels_a_pre_approval(pair: Pair) -> None:
    # RFC 6121 §3.4.2, last part
    pair.user_sends("subscribed")
    await pair.user.push(pair.contact, approved="true")
    pair.user_sends("unsubscribed")
    await pair.settle()
    pair.user.drain()
    pair.component.drain()
    pair.contact_sends("subscribe")
    await pair.settle()
    assert pair.delivered() == ["subscribe"]
    assert pair.routed() == []
