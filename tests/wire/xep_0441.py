# SPDX-License-Identifier: Apache-2.0
"""XEP-0441 Message Archive Management Preferences: whom a user does not want in the archive."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import ALL_MAM, MAM_2, archive, said
from support.client import Client
from support.play import Clients
from support.xml import E, Element

pytestmark = pytest.mark.ours("other servers are configured in their own way")


def prefs(
    default: str | None, always: list[str] | None = None, never: list[str] | None = None
) -> Element:
    """`<prefs/>`; a list that is None is left out."""
    lists = (
        E(name, None, *(E("jid", None, jid) for jid in jids))
        for name, jids in (("always", always), ("never", never))
        if jids is not None
    )
    return E("prefs", MAM_2, *lists, default=default)


async def set_prefs(client: Client, *given: object) -> Element:
    """Sets them; the answer."""
    reply = await client.iq("set", payload=prefs(*given))  # type: ignore[arg-type]
    assert reply.type == "result", f"refused: {reply}"
    return reply.at(("prefs", MAM_2))


def jids(element: Element, name: str) -> list[str]:
    """One of the lists."""
    return [jid.text for jid in element.at(name).all("jid")]


@pytest.mark.parametrize("dialect", ALL_MAM)
async def test_everything_is_archived_unless_the_user_says_otherwise(
    romeo: Client, dialect: str
) -> None:
    reply = await romeo.iq("get", payload=E("prefs", dialect))
    found = reply.at(("prefs", dialect))
    assert (found.get("default"), jids(found, "always"), jids(found, "never")) == (
        "always",
        [],
        [],
    )


@pytest.mark.settings(archive={"default": "never"})
async def test_the_servers_default_is_the_operators(romeo: Client, juliet: Client) -> None:
    reply = await romeo.iq("get", payload=E("prefs", MAM_2))
    assert reply.at(("prefs", MAM_2)).get("default") == "never"
    await said(romeo, juliet, "x")
    assert (await archive(romeo)).results == []
    await set_prefs(romeo, "always")
    await said(romeo, juliet, "y")
    assert (await archive(romeo)).bodies == ["y"]
    assert (await archive(juliet)).bodies == []


async def test_preferences_are_kept(clients: Clients, romeo: Client) -> None:
    applied = await set_prefs(romeo, "roster", ["B@a.example"], ["c@a.example/x", "d.example"])
    assert (applied.get("default"), jids(applied, "always")) == ("roster", ["b@a.example"])
    assert jids(applied, "never") == ["c@a.example/x", "d.example"]
    await romeo.close()
    again = await clients.online(romeo)
    reply = await again.iq("get", payload=E("prefs", MAM_2))
    assert reply.at(("prefs", MAM_2)).canonical() == applied.canonical()


async def test_never_is_in_force_from_the_next_message(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "before")
    id_ = romeo.send(E("iq", None, prefs("always", None, [juliet.bare]), type="set"))
    await said(romeo, juliet, "sent")
    await said(juliet, romeo, "received")
    assert (await romeo.expect("iq", id=id_)).type == "result"
    assert (await archive(romeo)).bodies == ["before"]
    assert (await archive(juliet)).bodies == ["before", "sent", "received"]


async def test_never_by_default_keeps_whom_the_list_names(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    await set_prefs(romeo, "never", [juliet.bare])
    await said(romeo, juliet, "kept")
    await said(romeo, nurse, "not kept")
    await said(nurse, romeo, "not kept either")
    assert (await archive(romeo)).bodies == ["kept"]


async def test_a_full_address_is_more_exact_than_its_bare_one(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # #jid-matching
    chamber = await clients.online(juliet, resource="chamber")
    await set_prefs(romeo, "always", [juliet.jid], [juliet.bare])
    await said(juliet, romeo, "from the balcony")
    await said(chamber, romeo, "from the chamber")
    assert (await archive(romeo)).bodies == ["from the balcony"]
    await set_prefs(romeo, "always", [], [juliet.jid])
    await said(juliet, romeo, "again from the balcony")
    await said(chamber, romeo, "again from the chamber")
    assert (await archive(romeo)).bodies == ["from the balcony", "again from the chamber"]


async def test_the_roster_decides_where_the_user_says_so(romeo: Client, juliet: Client) -> None:
    await set_prefs(romeo, "roster")
    await said(romeo, juliet, "a stranger")
    await romeo.roster_set(juliet.bare)
    await said(romeo, juliet, "a contact")
    assert (await archive(romeo)).bodies == ["a contact"]


async def test_what_is_not_archived_has_no_place_and_no_entry(
    romeo: Client, juliet: Client
) -> None:
    await set_prefs(juliet, "never")
    (got,) = await said(romeo, juliet, "x")
    assert not got.has("stanza-id", "urn:xmpp:sid:0")


WRONG = {
    "no default": prefs(None, [], []),
    "unknown default": prefs("sometimes", [], []),
    "bad address": prefs("always", ["@"], []),
    "empty address": prefs("always", [""], []),
    "not a list of addresses": E("prefs", MAM_2, E("never", None, E("x", None)), default="never"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_preferences_that_cannot_be_change_nothing(romeo: Client, wrong: Element) -> None:
    reply = await romeo.iq("set", payload=wrong)
    assert (reply.condition, reply.error_type) == ("bad-request", "modify")
    reply = await romeo.iq("get", payload=E("prefs", MAM_2))
    assert reply.at(("prefs", MAM_2)).get("default") == "always"


async def test_lists_are_bounded(romeo: Client) -> None:
    many = [f"u{number}@a.example" for number in range(1_001)]
    reply = await romeo.iq("set", payload=prefs("always", many))
    assert reply.condition == "resource-constraint"


async def test_preferences_of_another_are_forbidden(romeo: Client, juliet: Client) -> None:
    for kind, payload in (("get", E("prefs", MAM_2)), ("set", prefs("never"))):
        reply = await juliet.iq(kind, to=romeo.bare, payload=payload)
        assert reply.condition == "forbidden"


# The command, XEP-0441 #sect-adhoc.


CONFIGURE = "urn:xmpp:mam#configure"


async def configure(client: Client, *children: Element, **attrs: object) -> Element:
    """Sends the command to the server; the answer."""
    payload = E("command", ns.COMMANDS, *children, node=CONFIGURE, **attrs)
    return await client.iq("set", to=client.host, payload=payload)


def submission(**fields: list[str]) -> Element:
    """What a client filled out."""
    values = {"FORM_TYPE": [CONFIGURE], **fields}
    return E(
        "x",
        ns.DATA_FORMS,
        *(
            E("field", None, *(E("value", None, text) for text in texts), var=var)
            for var, texts in values.items()
        ),
        type="submit",
    )


async def test_preferences_are_a_form_of_a_command(romeo: Client, juliet: Client) -> None:
    payload = E("query", ns.DISCO_ITEMS, node=ns.COMMANDS)
    reply = await romeo.iq("get", to=romeo.host, payload=payload)
    listed = {i.get("node") for i in reply.at(("query", ns.DISCO_ITEMS)).all("item")}
    assert CONFIGURE in listed
    await set_prefs(romeo, "roster", ["a@a.example"], ["b@a.example/x"])
    started = (await configure(romeo, action="execute")).at(("command", ns.COMMANDS))
    fields = {f.get("var"): f for f in started.at(("x", ns.DATA_FORMS)).all("field")}
    shown = {var: [v.text for v in f.all("value")] for var, f in fields.items()}
    assert shown == {
        "FORM_TYPE": [CONFIGURE],
        "default": ["roster"],
        "always": ["a@a.example"],
        "never": ["b@a.example/x"],
    }
    filled = submission(default=["always"], never=[juliet.bare])
    session = started.get("sessionid")
    reply = await configure(romeo, filled, action="complete", sessionid=session)
    assert reply.at(("command", ns.COMMANDS)).get("status") == "completed"
    found = (await romeo.iq("get", payload=E("prefs", MAM_2))).at(("prefs", MAM_2))
    assert (found.get("default"), jids(found, "always")) == ("always", [])
    assert jids(found, "never") == [juliet.bare]
    await said(romeo, juliet, "x")
    assert (await archive(romeo)).results == []
    assert (await archive(juliet)).bodies == ["x"]


@pytest.mark.parametrize(
    "filled",
    [
        submission(),
        submission(default=["sometimes"]),
        submission(default=["always"], never=["@"]),
        submission(default=["always"], always=[f"u{n}@a.example" for n in range(1_000)]),
    ],
    ids=["nothing", "no such default", "no address", "too many"],
)
async def test_a_form_that_cannot_be_changes_nothing(romeo: Client, filled: Element) -> None:
    before = await set_prefs(romeo, "roster", ["a@a.example"], ["b@a.example"])
    started = (await configure(romeo)).at(("command", ns.COMMANDS))
    session = started.get("sessionid")
    reply = await configure(romeo, filled, action="complete", sessionid=session)
    assert reply.condition in ("bad-request", "not-acceptable", "resource-constraint")
    after = (await romeo.iq("get", payload=E("prefs", MAM_2))).at(("prefs", MAM_2))
    assert after.canonical() == before.canonical()
