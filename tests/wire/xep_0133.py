# SPDX-License-Identifier: Apache-2.0
"""XEP-0133 Service Administration: accounts and sessions by ad-hoc command."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping

import pytest
import pytest_asyncio

from support import ns
from support.client import Client, SaslFailed
from support.endpoint import Account
from support.play import Clients
from support.server import Server
from support.xml import E, Element

COUNTER = itertools.count(1)
Values = Mapping[str, str | list[str]]


def fresh(domain: str) -> Account:
    """An account that does not exist yet."""
    return Account(f"made-{os.getpid()}-{next(COUNTER)}@{domain}", "R0m30myrom30")


def submission(values: Values) -> Element:
    """A submitted form."""
    rows: dict[str, Iterable[str]] = {"FORM_TYPE": [ns.ADMIN]}
    rows |= {k: [v] if isinstance(v, str) else v for k, v in values.items()}
    return E(
        "x",
        ns.DATA_FORMS,
        *[E("field", None, *[E("value", None, v) for v in vs], var=k) for k, vs in rows.items()],
        type="submit",
    )


async def run(client: Client, name: str, **values: str | list[str]) -> Element:
    """Runs a command of two stages; the answer to the second."""
    node = f"{ns.ADMIN}#{name}"
    first = await client.iq(
        "set", to=client.host, payload=E("command", ns.COMMANDS, node=node, action="execute")
    )
    if first.type == "error":
        return first
    started = first.at(("command", ns.COMMANDS))
    if started.get("status") == "completed":
        return first
    form = started.at(("x", ns.DATA_FORMS))
    known = {f.get("var") for f in form.all("field")}
    assert set(values) <= known, f"{name} asks for {known}"
    done = E(
        "command",
        ns.COMMANDS,
        submission(dict(values)),
        node=node,
        action="complete",
        sessionid=started.get("sessionid"),
    )
    return await client.iq("set", to=client.host, payload=done)


def succeeded(reply: Element) -> bool:
    """Whether a command was completed without a note of type error."""
    if reply.type == "error":
        return False
    answer = reply.at(("command", ns.COMMANDS))
    notes = [n.get("type") for n in answer.all("note")]
    return answer.get("status") == "completed" and "error" not in notes


@pytest_asyncio.fixture
async def admin(clients: Clients, server: Server) -> Client:
    """A session of the administrator."""
    return await clients.bound(server.admin)


async def add(admin: Client, account: Account) -> Element:
    """XEP-0133 #add-user."""
    return await run(
        admin,
        "add-user",
        **{
            "accountjid": account.jid,
            "password": account.password,
            "password-verify": account.password,
        },
    )


async def can_log_in(clients: Clients, account: Account) -> bool:
    """Whether the account exists with that password and is enabled."""
    client = await clients.stream(account=account)
    try:
        await client.authenticate()
    except SaslFailed:
        return False
    return True


async def test_user_is_added(clients: Clients, admin: Client) -> None:
    # XEP-0133 #add-user, examples 1 to 4
    account = fresh(admin.host)
    assert succeeded(await add(admin, account))
    assert await can_log_in(clients, account)


async def test_existing_user_is_not_added_again(clients: Clients, admin: Client) -> None:
    account = fresh(admin.host)
    await add(admin, account)
    assert not succeeded(await add(admin, Account(account.jid, "other")))
    assert await can_log_in(clients, account)


async def test_passwords_that_differ_are_refused(clients: Clients, admin: Client) -> None:
    account = fresh(admin.host)
    values = {"accountjid": account.jid, "password": "a", "password-verify": "b"}
    assert not succeeded(await run(admin, "add-user", **values))
    assert not await can_log_in(clients, account)


async def test_user_of_another_domain_is_refused(admin: Client) -> None:
    assert not succeeded(await add(admin, fresh("example.org")))


async def test_user_is_deleted_and_its_session_ended(clients: Clients, admin: Client) -> None:
    # XEP-0133 #delete-user
    account = fresh(admin.host)
    await add(admin, account)
    victim = await clients.online(account)
    assert succeeded(await run(admin, "delete-user", accountjids=[account.jid]))
    await victim.expect_end()
    assert not await can_log_in(clients, account)


@pytest.mark.ours("Prosody 0.12 cannot disable accounts")
async def test_user_is_disabled_and_enabled_again(clients: Clients, admin: Client) -> None:
    # XEP-0133 #disable-user, #reenable-user; RFC 6120 §6.5.2
    account = fresh(admin.host)
    await add(admin, account)
    victim = await clients.online(account)
    assert succeeded(await run(admin, "disable-user", accountjids=[account.jid]))
    await victim.expect_end()
    client = await clients.stream(account=account)
    with pytest.raises(SaslFailed) as failure:
        await client.authenticate()
    assert failure.value.condition in ("account-disabled", "not-authorized")
    assert succeeded(await run(admin, "reenable-user", accountjids=[account.jid]))
    assert await can_log_in(clients, account)


async def test_session_is_ended(clients: Clients, admin: Client) -> None:
    # XEP-0133 #end-user-session
    account = fresh(admin.host)
    await add(admin, account)
    one, two = await clients.online(account), await clients.online(account)
    assert succeeded(await run(admin, "end-user-session", accountjids=[one.jid]))
    await one.expect_end()
    await two.sync()
    assert succeeded(await run(admin, "end-user-session", accountjids=[account.jid]))
    await two.expect_end()
    assert await can_log_in(clients, account)


async def test_password_is_changed(clients: Clients, admin: Client) -> None:
    # XEP-0133 #change-user-password
    account = fresh(admin.host)
    await add(admin, account)
    new = Account(account.jid, "another one")
    values = {"accountjid": account.jid, "password": new.password}
    assert succeeded(await run(admin, "change-user-password", **values))
    assert await can_log_in(clients, new)
    assert not await can_log_in(clients, account)


async def test_online_users_are_counted_and_listed(clients: Clients, admin: Client) -> None:
    # XEP-0133 #get-online-users-list
    somebody = await clients.online()
    reply = await run(admin, "get-online-users-list", max_items="none")
    assert succeeded(reply)
    form = reply.at(("command", ns.COMMANDS), ("x", ns.DATA_FORMS))
    listed = {v.text for f in form.all("field") for v in f.all("value")}
    assert any(somebody.bare in text for text in listed)


@pytest.mark.deviates(prosody="has only a part of the commands")
@pytest.mark.parametrize(
    "name",
    [
        "get-registered-users-num",
        "get-disabled-users-num",
        "get-online-users-num",
        "get-active-users-num",
        "get-idle-users-num",
    ],
)
async def test_statistics_are_numbers(admin: Client, name: str) -> None:
    # XEP-0133 #get-registered-users-num and the like
    reply = await run(admin, name)
    assert succeeded(reply)
    form = reply.at(("command", ns.COMMANDS), ("x", ns.DATA_FORMS))
    numbers = [
        v.text for f in form.all("field") if f.get("var") != "FORM_TYPE" for v in f.all("value")
    ]
    assert numbers
    assert all(n.isdecimal() for n in numbers)


@pytest.mark.deviates(prosody="announces by another module")
async def test_announcement_reaches_online_users(clients: Clients, admin: Client) -> None:
    # XEP-0133 #announce
    somebody = await clients.online()
    assert succeeded(await run(admin, "announce", announcement=["The end", "is near."]))
    got = await somebody.expect("message", from_=admin.host)
    assert "is near." in (got.body or "")


COMMANDS = ["add-user", "delete-user", "end-user-session", "change-user-password"]


@pytest.mark.parametrize("name", COMMANDS)
async def test_others_may_not(romeo: Client, name: str) -> None:
    # attack 24; XEP-0133 #security
    reply = await run(romeo, name)
    assert reply.type == "error"
    assert reply.condition in ("forbidden", "item-not-found", "not-allowed")
