# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from antiphon._core import Element
from antiphon.xep.xep_0077_register import MOST_ADDRESSES, RATE, Options, _Rate
from antiphon.xmpp import ns
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

HOST = "capulet.example"
JULIET = "juliet@capulet.example"


@pytest.fixture
async def h() -> Harness:
    return Harness(make_config(options={"register": Options(enabled=True)}))


def account(username: str | None, password: str | None, *more: Element) -> Element:
    return E(
        "query",
        ns.REGISTER,
        None if username is None else E("username", ns.REGISTER, username),
        None if password is None else E("password", ns.REGISTER, password),
        *more,
    )


async def register(h: Harness, query: Element, address: str = "192.0.2.1") -> Element | None:
    return await h.iq("set", query, frm=None, to=HOST, address=address)


async def test_it_is_off_by_default() -> None:
    error = await refused(register(Harness(), account("bill", "x")))
    assert error.condition == "service-unavailable"


async def test_fields_before_login_and_state_after(h: Harness) -> None:
    query = E("query", ns.REGISTER)
    before = await h.iq("get", query, frm=None, to=HOST)
    assert before is not None
    assert [c.name for c in before.children] == ["instructions", "username", "password"]
    for to in (HOST, None):
        after = await h.iq("get", query, to=to)
        assert after is not None
        assert [(c.name, c.text) for c in after.children] == [
            ("registered", ""),
            ("username", "juliet"),
            ("password", ""),
        ]


async def test_an_account_is_made_before_login(h: Harness) -> None:
    assert await register(h, account("Bill", "Calliope")) is None
    assert h.core.passwords["bill@capulet.example"] == "Calliope"


async def test_an_account_is_made_by_a_form(h: Harness) -> None:
    fields = {"FORM_TYPE": ns.REGISTER, "username": "bill", "password": "x"}
    form = E(
        "x",
        ns.DATA,
        *(E("field", ns.DATA, E("value", ns.DATA, v), var=k) for k, v in fields.items()),
        type="submit",
    )
    assert await register(h, E("query", ns.REGISTER, form)) is None
    assert "bill@capulet.example" in h.core.accounts


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        (account("juliet", "x"), "conflict"),
        (account("bill", None), "not-acceptable"),
        (account("bill", ""), "not-acceptable"),
        (account(None, "x"), "not-acceptable"),
        (account("a b", "x"), "not-acceptable"),
        (account("bill@evil.example", "x"), "not-acceptable"),
        (account("bill@capulet.example/x", "x"), "not-acceptable"),
        (E("query", ns.REGISTER, E("remove", ns.REGISTER)), "unexpected-request"),
    ],
)
async def test_a_registration_is_refused(h: Harness, query: Element, condition: str) -> None:
    before = dict(h.core.accounts)
    assert (await refused(register(h, query))).condition == condition
    assert h.core.accounts == before


async def test_a_password_is_changed_by_its_user(h: Harness) -> None:
    for to in (HOST, None):
        assert await h.iq("set", account("juliet", f"new-{to}"), to=to) is None
        assert h.core.passwords[JULIET] == f"new-{to}"


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        (account("juliet", ""), "bad-request"),
        (account("juliet", None), "bad-request"),
        (account(None, "x"), "bad-request"),
        (account("romeo", "x"), "not-allowed"),
        (account("newcomer", "x"), "not-allowed"),
    ],
)
async def test_a_password_change_is_refused(h: Harness, query: Element, condition: str) -> None:
    assert (await refused(h.iq("set", query, to=HOST))).condition == condition
    assert not h.core.passwords


@pytest.mark.parametrize("frm", ["mallory@evil.example/x", "romeo@capulet.example/x"])
async def test_nobody_changes_another_account(h: Harness, frm: str) -> None:
    error = await refused(h.iq("set", account("juliet", "x"), frm=frm, to=JULIET))
    assert error.condition == "forbidden"
    remote = await refused(
        h.iq("set", account("juliet", "x"), frm="mallory@evil.example/x", to=HOST)
    )
    assert remote.condition == "forbidden"


async def test_an_account_is_removed_behind_the_answer(h: Harness) -> None:
    query = E("query", ns.REGISTER, E("remove", ns.REGISTER))
    assert await h.iq("set", query) is None
    assert JULIET in h.core.accounts
    await h.bridge.close(1)
    assert JULIET not in h.core.accounts


async def test_remove_stands_alone(h: Harness) -> None:
    query = account("juliet", None, E("remove", ns.REGISTER))
    assert (await refused(h.iq("set", query))).condition == "bad-request"
    assert JULIET in h.core.accounts


async def test_registrations_of_an_address_are_bounded(h: Harness) -> None:
    ctx = h.assembly.contexts[HOST]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    limits = msgspec.structs.replace(ctx.host.limits, registrations_per_hour=2)
    host = msgspec.structs.replace(ctx.host, limits=limits)
    h.assembly.contexts[HOST] = msgspec.structs.replace(ctx, host=host, clock=lambda: now)
    for name in ("a", "b"):
        await register(h, account(name, "x"), "2001:db8::1")
    error = await refused(register(h, account("c", "x"), "2001:db8::ffff"))
    assert error.condition == "resource-constraint"
    await register(h, account("d", "x"), "2001:db8:0:1::1")
    now += timedelta(hours=1)
    await register(h, account("c", "x"), "2001:db8::1")


def test_the_table_of_addresses_is_bounded() -> None:
    rate, now = _Rate(), datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(MOST_ADDRESSES + 10):
        assert rate.count(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1, now)
    assert len(rate._times) == MOST_ADDRESSES
    assert rate.count("10.0.0.0", 0, now)
    assert rate.count("::ffff:10.0.39.20", 2, now)
    assert not rate.count("10.0.39.20", 2, now)


async def test_the_rate_is_kept_per_host(h: Harness) -> None:
    assert RATE.of(h.assembly.contexts[HOST]) is RATE.of(h.assembly.contexts[HOST])
