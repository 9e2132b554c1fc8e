# SPDX-License-Identifier: Apache-2.0
"""The features that answer with one element."""

from datetime import UTC, datetime

import msgspec
import pytest

from antiphon import __version__
from antiphon._core import Element, Jid
from antiphon.xep.xep_0049_private import Options as PrivateOptions
from antiphon.xep.xep_0054_vcard import Options as VcardOptions
from antiphon.xep.xep_0092_version import Options as VersionOptions
from antiphon.xmpp import ns
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

HOST = "capulet.example"
JULIET = "juliet@capulet.example"
ROMEO = "romeo@capulet.example/orchard"
STRANGER = "mallory@evil.example/x"


def at(h: Harness, moment: datetime) -> None:
    for domain, ctx in h.assembly.contexts.items():
        h.assembly.contexts[domain] = msgspec.structs.replace(ctx, clock=lambda: moment)


# XEP-0012


async def test_last_activity_is_for_those_who_see_presence() -> None:
    h = Harness()
    query = E("query", ns.LAST)
    for asker in (ROMEO, STRANGER):
        assert (await refused(h.iq("get", query, frm=asker, to=JULIET))).condition == "forbidden"
    assert (await refused(h.iq("get", query, frm=ROMEO, to="no@capulet.example"))).condition == (
        "forbidden"
    )


async def test_last_activity_counts_from_the_last_session() -> None:
    h = Harness()
    at(h, datetime(2026, 1, 1, 0, 15, 3, tzinfo=UTC))
    h.core.sees.add((JULIET, "romeo@capulet.example"))
    ended = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    h.core.activity[JULIET] = (ended, "Heading Home", False)
    assert await h.iq("get", E("query", ns.LAST), frm=ROMEO, to=JULIET) == E(
        "query", ns.LAST, "Heading Home", seconds=903
    )


async def test_who_is_online_was_active_zero_seconds_ago() -> None:
    h = Harness()
    h.core.activity[JULIET] = (1, "old", True)
    assert await h.iq("get", E("query", ns.LAST)) == E("query", ns.LAST, seconds=0)


async def test_who_was_never_online_has_no_last_activity() -> None:
    assert (await refused(Harness().iq("get", E("query", ns.LAST)))).condition == "item-not-found"


async def test_last_activity_of_the_host_is_its_uptime() -> None:
    answer = await Harness().iq("get", E("query", ns.LAST), to=HOST)
    assert answer == E("query", ns.LAST, seconds=123)


# XEP-0049

PREFS = E("exodus", "exodus:prefs", E("defaultnick", "exodus:prefs", "Hamlet"))


def private(*children: Element) -> Element:
    return E("query", ns.PRIVATE, *children)


async def test_private_data_comes_back_as_it_was_stored() -> None:
    h = Harness()
    assert await h.iq("set", private(PREFS)) is None
    assert await h.iq("get", private(E("exodus", "exodus:prefs"))) == private(PREFS)


async def test_private_data_that_is_not_there_is_the_empty_element() -> None:
    answer = await Harness().iq("get", private(E("storage", "storage:bookmarks")))
    assert answer == private(E("storage", "storage:bookmarks"))


@pytest.mark.parametrize("type_", ["get", "set"])
@pytest.mark.parametrize("to", [JULIET, "no@capulet.example"])
async def test_private_data_is_for_its_owner(type_: str, to: str) -> None:
    error = await refused(Harness().iq(type_, private(PREFS), frm=ROMEO, to=to))  # type: ignore[arg-type]
    assert error.condition == "forbidden"


@pytest.mark.parametrize(
    ("type_", "query", "condition"),
    [
        ("get", private(), "not-acceptable"),
        ("set", private(), "not-acceptable"),
        ("get", private(PREFS, E("other", "x:y")), "not-acceptable"),
        ("set", private(PREFS, PREFS), "bad-request"),
        ("set", private(E("vCard", "vcard-temp")), "not-acceptable"),
        ("get", private(E("query", "jabber:iq:roster")), "not-acceptable"),
        ("set", private(E("x", "http://jabber.org/protocol/muc")), "not-acceptable"),
        ("set", private(E("x", "x:y", "a" * 200_000)), "not-acceptable"),
    ],
)
async def test_private_storage_refuses(type_: str, query: Element, condition: str) -> None:
    error = await refused(Harness().iq(type_, query))  # type: ignore[arg-type]
    assert error.condition == condition


async def test_private_elements_of_one_account_are_bounded() -> None:
    h = Harness(make_config(options={"private": PrivateOptions(max_elements=2)}))
    for name in ("a", "b", "b"):
        await h.iq("set", private(E(name, "x:y")))
    error = await refused(h.iq("set", private(E("c", "x:y"))))
    assert error.condition == "resource-constraint"


# XEP-0054

CARD = E("vCard", ns.VCARD, E("FN", ns.VCARD, "Juliet"))


async def test_a_vcard_is_read_by_everyone() -> None:
    h = Harness()
    assert await h.iq("get", E("vCard", ns.VCARD)) == E("vCard", ns.VCARD)
    assert await h.iq("set", CARD) is None
    for asker in (f"{JULIET}/balcony", ROMEO, STRANGER):
        assert await h.iq("get", E("vCard", ns.VCARD), frm=asker, to=JULIET) == CARD


@pytest.mark.parametrize("to", [JULIET, "no@capulet.example"])
async def test_no_vcard_and_no_account_look_the_same(to: str) -> None:
    error = await refused(Harness().iq("get", E("vCard", ns.VCARD), frm=ROMEO, to=to))
    assert error.condition == "service-unavailable"


async def test_a_vcard_is_set_by_its_owner_within_the_limit() -> None:
    h = Harness(make_config(options={"vcard": VcardOptions(max_bytes=1_024)}))
    assert (await refused(h.iq("set", CARD, frm=ROMEO, to=JULIET))).condition == "forbidden"
    large = E("vCard", ns.VCARD, E("DESC", ns.VCARD, "x" * 1_024))
    assert (await refused(h.iq("set", large))).condition == "not-acceptable"


async def test_the_hosts_vcard_comes_from_its_options() -> None:
    query = E("vCard", ns.VCARD)
    assert (await refused(Harness().iq("get", query, to=HOST))).condition == "service-unavailable"
    options = VcardOptions(server_url="https://capulet.example/")
    answer = await Harness(make_config(options={"vcard": options})).iq("get", query, to=HOST)
    assert answer is not None
    assert [child.text for child in answer.children] == [HOST, "https://capulet.example/", HOST]


# XEP-0092


@pytest.mark.parametrize(("show_os", "names"), [(False, 2), (True, 3)])
async def test_the_operating_system_is_told_only_if_wanted(show_os: bool, names: int) -> None:
    h = Harness(make_config(options={"version": VersionOptions(show_os=show_os)}))
    answer = await h.iq("get", E("query", ns.VERSION), to=HOST)
    assert answer is not None
    assert [child.text for child in answer.children[:2]] == ["Antiphon", __version__]
    assert len(answer.children) == names


# XEP-0202


async def test_the_time_is_utc() -> None:
    h = Harness()
    at(h, datetime(2006, 12, 19, 17, 58, 35, tzinfo=UTC))
    answer = await h.iq("get", E("time", ns.TIME), to=HOST)
    assert answer is not None
    assert [child.text for child in answer.children] == ["+00:00", "2006-12-19T17:58:35Z"]


# XEP-0191


def items(name: str, *jids: str) -> Element:
    return E(name, ns.BLOCKING, *(E("item", ns.BLOCKING, jid=jid) for jid in jids))


async def test_blocked_addresses_are_listed_until_unblocked() -> None:
    h = Harness()
    await h.iq("set", items("block", "romeo@montague.example", "evil.example"))
    listed = await h.iq("get", E("blocklist", ns.BLOCKING))
    assert listed == items("blocklist", "romeo@montague.example", "evil.example")
    assert ("block.list", (Jid(JULIET), (0, 7))) in h.core.calls
    await h.iq("set", items("unblock", "evil.example"))
    assert h.core.blocked[JULIET] == [Jid("romeo@montague.example")]
    await h.iq("set", items("unblock"))
    assert h.core.blocked[JULIET] == []


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (items("block"), "bad-request"),
        (E("block", ns.BLOCKING, E("item", ns.BLOCKING)), "bad-request"),
        (items("block", "a@b@c/"), "jid-malformed"),
        (E("unblock", ns.BLOCKING, E("other", "x:y")), "bad-request"),
    ],
)
async def test_a_malformed_block_is_refused(payload: Element, condition: str) -> None:
    h = Harness()
    assert (await refused(h.iq("set", payload))).condition == condition
    assert not h.core.calls


async def test_a_block_list_is_for_its_owner() -> None:
    error = await refused(Harness().iq("get", E("blocklist", ns.BLOCKING), frm=ROMEO, to=JULIET))
    assert error.condition == "forbidden"


# XEP-0280


async def test_carbons_are_set_for_the_session_that_asks() -> None:
    h = Harness()
    await h.iq("set", E("enable", ns.CARBONS))
    await h.iq("set", E("disable", ns.CARBONS))
    assert [arguments[1:] for _, arguments in h.core.calls] == [((0, 7), True), ((0, 7), False)]


# XEP-0157


async def test_contact_addresses_are_a_form_in_the_hosts_answer() -> None:
    from antiphon.xep.xep_0157_contact import Options  # noqa: PLC0415

    options = Options(abuse=("mailto:abuse@capulet.example",), support=("https://x.example",))
    h = Harness(make_config(options={"contact": options}, admins=["admin@capulet.example"]))
    answer = await h.iq("get", E("query", ns.DISCO_INFO), to=HOST)
    assert answer is not None
    form = answer.find(ns.DATA, "x")
    assert form is not None
    assert {f.get("var"): [v.text for v in f.children] for f in form.children} == {
        "FORM_TYPE": [ns.SERVERINFO],
        "abuse-addresses": ["mailto:abuse@capulet.example"],
        "support-addresses": ["https://x.example"],
    }


async def test_without_contact_addresses_there_is_no_form() -> None:
    # The addresses of administrators are nobody's business unless they are configured here.
    h = Harness(make_config(admins=["admin@capulet.example"]))
    answer = await h.iq("get", E("query", ns.DISCO_INFO), to=HOST)
    assert answer is not None
    assert answer.find(ns.DATA, "x") is None
