# SPDX-License-Identifier: Apache-2.0
"""XEP-0077 In-Band Registration: making an account, changing its password, removing it."""

from __future__ import annotations

import itertools
import os

import pytest

from support import ns
from support.client import Client, SaslFailed
from support.endpoint import Account
from support.play import Clients
from support.xml import E, Element, presence

OPEN = {"enabled": True}
COUNTER = itertools.count(1)
on = pytest.mark.settings(
    modules_register=OPEN,
    limits={"registrations_per_hour": 0},
)


def fresh(client: Client) -> Account:
    """An account that does not exist yet."""
    return Account(f"new-{os.getpid()}-{next(COUNTER)}@{client.host}", "S3cret pass")


def fields(account: Account) -> list[Element]:
    """XEP-0077, example 4: the fields without a form."""
    return [E("username", None, account.user), E("password", None, account.password)]


async def register(client: Client, *children: Element) -> Element:
    """Sends a jabber:iq:register set; the answer."""
    return await client.iq("set", payload=E("query", ns.REGISTER, *children))


async def logged_in(clients: Clients, account: Account) -> Client:
    """A session of the account; fails where it cannot log in."""
    return await clients.bound(account)


# -- off by default -----------------------------------------------------------------


async def test_registration_is_off_by_default(clients: Clients) -> None:
    # issue: off by default
    client = await clients.stream()
    assert not client.features.has("register", ns.REGISTER_FEATURE)
    client.send(E("iq", ns.CLIENT, E("query", ns.REGISTER), type="get", id="r1"))
    answer = await client.next()
    assert answer.type == "error" or answer.name == "error"


# -- making an account (XEP-0077 #usecases-register) --------------------------------------


@on
async def test_feature_is_offered_before_login_under_tls(clients: Clients) -> None:
    # XEP-0077 #streamfeature
    clear = clients.raw()
    await clear.connect()
    await clear.open_stream()
    assert not clear.features.has("register", ns.REGISTER_FEATURE)
    client = await clients.stream()
    assert client.features.has("register", ns.REGISTER_FEATURE)


@on
async def test_fields_are_told_before_login(clients: Clients) -> None:
    # XEP-0077, examples 1 to 3
    client = await clients.stream()
    reply = await client.iq("get", payload=E("query", ns.REGISTER))
    query = reply.at(("query", ns.REGISTER))
    assert query.at("instructions").text
    assert query.has("username")
    assert query.has("password")


@on
@pytest.mark.parametrize("kind", ["starttls", "direct", "wss"])
async def test_new_account_can_log_in_on_the_same_stream(clients: Clients, kind: str) -> None:
    # XEP-0077, examples 4 and 5
    client = await clients.stream(kind)
    account = fresh(client)
    reply = await register(client, *fields(account))
    assert reply.type == "result"
    client.account = account
    await client.authenticate()
    await client.bind()
    assert client.bare == account.jid


@on
@pytest.mark.deviates(prosody="takes the fields without a form only")
async def test_registration_by_form(clients: Clients) -> None:
    # XEP-0077 #extensibility
    client = await clients.stream()
    account = fresh(client)
    values = {"FORM_TYPE": ns.REGISTER, "username": account.user, "password": account.password}
    form = E(
        "x",
        ns.DATA_FORMS,
        *[E("field", None, E("value", None, v), var=k) for k, v in values.items()],
        type="submit",
    )
    assert (await register(client, form)).type == "result"
    await logged_in(clients, account)


@on
async def test_taken_name_is_conflict(clients: Clients) -> None:
    # XEP-0077, example 6
    client = await clients.stream()
    assert client.account is not None
    taken = Account(client.account.jid, "other")
    reply = await register(client, *fields(taken))
    assert (reply.type, reply.condition) == ("error", "conflict")
    await client.authenticate()  # the old password holds


@on
async def test_missing_fields_are_not_acceptable(clients: Clients) -> None:
    # XEP-0077, example 7
    client = await clients.stream()
    for children in ([], [E("username", None, "x")], [E("password", None, "x")]):
        reply = await register(client, *children)
        assert reply.type == "error"
        assert reply.condition in ("not-acceptable", "bad-request")


@on
@pytest.mark.parametrize("name", ["", "a b", "a@b", "a/b", "x" * 1024, "\u2028"])
async def test_unusable_name_is_refused(clients: Clients, name: str) -> None:
    client = await clients.stream()
    reply = await register(client, E("username", None, name), E("password", None, "x"))
    assert reply.type == "error"
    assert reply.condition in ("not-acceptable", "jid-malformed", "bad-request", "not-allowed")


@on
@pytest.mark.deviates(prosody="takes an empty password")
async def test_empty_password_is_refused(clients: Clients) -> None:
    client = await clients.stream()
    account = fresh(client)
    reply = await register(client, E("username", None, account.user), E("password"))
    assert reply.type == "error"


@pytest.mark.ours("registrations_per_hour")
@pytest.mark.settings(modules_register=OPEN, limits={"registrations_per_hour": 2})
async def test_registrations_of_an_address_are_limited(clients: Clients) -> None:
    # requirements 3.8: rate limit
    outcomes = []
    for _ in range(4):
        client = await clients.stream()
        reply = await register(client, *fields(fresh(client)))
        outcomes.append(reply.condition if reply.type == "error" else "ok")
    assert outcomes[:2] == ["ok", "ok"]
    assert all(
        o in ("resource-constraint", "not-acceptable", "policy-violation") for o in outcomes[2:]
    )


# -- with an account (XEP-0077 #usecases-changepw, #usecases-cancel) -----------------------


@on
async def test_registered_entity_sees_that_it_is(romeo: Client) -> None:
    # XEP-0077, example 3: <registered/>
    reply = await romeo.iq("get", payload=E("query", ns.REGISTER))
    query = reply.at(("query", ns.REGISTER))
    assert query.has("registered")
    assert query.at("username").text == romeo.user


@on
async def test_password_is_changed(clients: Clients, romeo: Client) -> None:
    # XEP-0077, examples 18 and 19
    account = Account(romeo.bare, "another one")
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, *fields(account)))
    assert reply.type == "result"
    await logged_in(clients, account)
    old = await clients.stream(account=romeo.account)
    with pytest.raises(SaslFailed):
        await old.authenticate()


@on
async def test_password_of_another_cannot_be_changed(romeo: Client, juliet: Client) -> None:
    # XEP-0077, example 20 on
    account = Account(juliet.bare, "stolen")
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, *fields(account)))
    assert reply.type == "error"
    assert reply.condition in ("bad-request", "forbidden", "not-allowed", "not-acceptable")


@on
async def test_removed_account_is_gone(clients: Clients, couple: tuple[Client, Client]) -> None:
    # XEP-0077, examples 8 and 9; requirements 3.8: contacts unsubscribed, sessions ended
    romeo, juliet = couple
    assert romeo.account is not None
    other = await clients.online(romeo)
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, E("remove")))
    assert reply.type == "result"
    await romeo.expect_end()
    await other.expect_end()
    await juliet.expect("presence", type="unavailable", from_=romeo.jid)
    again = await clients.stream(account=romeo.account)
    with pytest.raises(SaslFailed) as failure:
        await again.authenticate()
    assert failure.value.condition == "not-authorized"


@on
@pytest.mark.deviates(prosody="leaves the contacts' rosters alone")
async def test_removed_account_unsubscribes_from_its_contacts(
    couple: tuple[Client, Client],
) -> None:
    romeo, juliet = couple
    await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, E("remove")))
    kinds = {(await juliet.expect("presence", from_=romeo.bare)).type for _ in range(2)}
    assert kinds == {"unsubscribe", "unsubscribed"}


@on
@pytest.mark.deviates(prosody="keeps what was stored under the name")
async def test_name_used_again_inherits_nothing(clients: Clients, romeo: Client) -> None:
    # requirements 3.8: nothing left in any table
    await romeo.roster_set("friend@example.org")
    await romeo.iq("set", payload=E("vCard", ns.VCARD, E("FN", None, "Old")))
    await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, E("remove")))
    await romeo.expect_end()
    client = await clients.stream()
    account = Account(romeo.bare, "new owner")
    assert (await register(client, *fields(account))).type == "result"
    heir = await logged_in(clients, account)
    assert len((await heir.roster()).at(("query", ns.ROSTER))) == 0
    reply = await heir.iq("get", payload=E("vCard", ns.VCARD))
    assert reply.type == "error" or len(reply.at(("vCard", ns.VCARD))) == 0
    heir.send(presence())


@pytest.mark.ours("without the feature nothing of it works")
async def test_password_change_is_off_with_the_feature(romeo: Client) -> None:
    account = Account(romeo.bare, "another one")
    reply = await romeo.iq("set", to=romeo.host, payload=E("query", ns.REGISTER, *fields(account)))
    assert reply.type == "error"
