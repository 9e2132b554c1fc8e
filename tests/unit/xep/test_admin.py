# SPDX-License-Identifier: Apache-2.0
import pytest

from antiphon._core import Element, Jid
from antiphon.xep.xep_0133_admin import COMMANDS, MOST_JIDS
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

HOST = "capulet.example"
ADMIN = "admin@capulet.example/x"
JULIET = "juliet@capulet.example"
ROMEO = "romeo@capulet.example"


@pytest.fixture
async def h() -> Harness:
    return Harness(make_config(admins=["admin@capulet.example"]))


async def command(h: Harness, node: str, *children: Element, key: str | None = None) -> Element:
    payload = E("command", ns.COMMANDS, *children, node=f"{ns.ADMIN}#{node}", sessionid=key)
    answer = await h.iq("set", payload, frm=ADMIN, to=HOST)
    assert answer is not None
    return answer


async def run(h: Harness, node: str, **values: str | list[str]) -> Element:
    """Executes a command as Smack does: the form first, then the submission."""
    form = await command(h, node)
    if form.get("status") == "completed":
        return form
    fields = [
        E(
            "field",
            ns.DATA,
            *(E("value", ns.DATA, v) for v in _list(value)),
            var=name.replace("__", "-"),
        )
        for name, value in values.items()
    ]
    return await command(
        h, node, E("x", ns.DATA, *fields, type="submit"), key=form.get("sessionid")
    )


def _list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def values(answer: Element, var: str) -> list[str]:
    form = answer.find(ns.DATA, "x")
    assert form is not None
    found = {f.get("var"): [v.text for v in f.children] for f in form.children}
    return found[var]


async def test_every_command_gives_its_form_or_its_result(h: Harness) -> None:
    for one in COMMANDS:
        answer = await command(h, one.node)
        form = answer.find(ns.DATA, "x")
        assert form is not None
        assert [v.text for v in form.find(ns.DATA, "field").children] == [ns.ADMIN]  # type: ignore[union-attr]
        expected = "executing" if one.fields else "completed"
        assert answer.get("status") == expected


@pytest.mark.parametrize("node", [one.node for one in COMMANDS])
async def test_nobody_else_runs_a_command(h: Harness, node: str) -> None:
    payload = E("command", ns.COMMANDS, node=f"{ns.ADMIN}#{node}")
    assert (await refused(h.iq("set", payload, to=HOST))).condition == "forbidden"


async def test_a_user_is_added(h: Harness) -> None:
    answer = await run(
        h,
        "add-user",
        accountjid="nurse@capulet.example",
        password="secret",
        password__verify="secret",
    )
    assert answer.get("status") == "completed"
    assert h.core.passwords["nurse@capulet.example"] == "secret"


@pytest.mark.parametrize(
    ("given", "condition"),
    [
        ({"accountjid": JULIET, "password": "x"}, "conflict"),
        ({"accountjid": "nurse@capulet.example"}, "bad-request"),
        (
            {"accountjid": "nurse@capulet.example", "password": "x", "password__verify": "y"},
            "bad-request",
        ),
        ({"accountjid": "nurse@elsewhere.example", "password": "x"}, "item-not-found"),
        ({"accountjid": "capulet.example", "password": "x"}, "jid-malformed"),
    ],
)
async def test_a_user_is_not_added(h: Harness, given: dict[str, str], condition: str) -> None:
    before = dict(h.core.accounts)
    assert (await refused(run(h, "add-user", **given))).condition == condition
    assert h.core.accounts == before


async def test_users_are_deleted_all_or_none(h: Harness) -> None:
    error = await refused(run(h, "delete-user", accountjids=[JULIET, "no@capulet.example"]))
    assert error.condition == "item-not-found"
    assert JULIET in h.core.accounts
    await run(h, "delete-user", accountjids=[JULIET, ROMEO])
    assert list(h.core.accounts) == ["admin@capulet.example"]


async def test_a_disabled_user_is_ended_and_can_be_enabled(h: Harness) -> None:
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/balcony"), 0, None, False)]
    await run(h, "disable-user", accountjids=JULIET)
    assert h.core.accounts[JULIET] is False
    assert h.core.sessions[JULIET] == []
    answer = await run(h, "get-disabled-users-num")
    assert values(answer, "disabledusersnum") == ["1"]
    answer = await run(h, "get-disabled-users-list", max_items="25")
    assert values(answer, "disableduserjids") == [JULIET]
    await run(h, "reenable-user", accountjids=JULIET)
    assert h.core.accounts[JULIET] is True


async def test_one_session_or_all_are_ended(h: Harness) -> None:
    resources = ("a", "b", "c")
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/{r}"), 0, None, False) for r in resources]
    await run(h, "end-user-session", accountjids=f"{JULIET}/a")
    assert [s[0].resource for s in h.core.sessions[JULIET]] == ["b", "c"]
    await run(h, "end-user-session", accountjids=JULIET)
    assert h.core.sessions[JULIET] == []


async def test_a_password_is_changed(h: Harness) -> None:
    await run(h, "change-user-password", accountjid=JULIET, password="new")
    assert h.core.passwords[JULIET] == "new"


async def test_a_roster_is_inside_the_form(h: Harness) -> None:
    h.core.rosters[JULIET] = {"romeo@montague.example": ("Romeo", [])}
    answer = await run(h, "get-user-roster", accountjids=JULIET)
    form = answer.find(ns.DATA, "x")
    assert form is not None
    roster = form.find(ns.ROSTER, "query")
    assert roster is not None
    assert roster.children[0].get("jid") == "romeo@montague.example"
    assert ("roster.get", (Jid(JULIET), None, None)) in h.core.calls


async def test_statistics_of_a_user(h: Harness) -> None:
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/balcony"), 0, None, False)]
    h.core.activity[ROMEO] = (1_072_000_000_000, "", False)
    answer = await run(h, "user-stats", accountjid=JULIET)
    assert values(answer, "rostersize") == ["0"]
    assert values(answer, "onlineresources") == ["balcony"]
    answer = await run(h, "get-user-lastlogin", accountjids=ROMEO)
    assert values(answer, "lastlogin") == ["2003-12-21T09:46:40Z"]


async def test_users_are_counted_and_listed(h: Harness) -> None:
    away = E("presence", ns.CLIENT, E("show", ns.CLIENT, "away"))
    h.core.sessions[JULIET] = [
        (Jid(f"{JULIET}/a"), 0, away, False),
        (Jid(f"{JULIET}/b"), 5, E("presence", ns.CLIENT), False),
    ]
    h.core.sessions[ROMEO] = [(Jid(f"{ROMEO}/a"), 0, away, False)]
    h.core.sessions["admin@capulet.example"] = [(Jid(ADMIN), None, None, False)]
    numbers = {
        "get-registered-users-num": ("registeredusersnum", "3"),
        "get-online-users-num": ("onlineusersnum", "3"),
        "get-active-users-num": ("activeusersnum", "1"),
        "get-idle-users-num": ("idleusersnum", "2"),
    }
    for node, (var, expected) in numbers.items():
        assert values(await run(h, node), var) == [expected]
    lists = {
        "get-registered-users-list": ("registereduserjids", 3),
        "get-online-users-list": ("onlineuserjids", 3),
        "get-active-users": ("activeuserjids", 1),
        "get-idle-users": ("activeuserjids", 2),
    }
    for node, (var, count) in lists.items():
        assert len(values(await run(h, node, max_items="none"), var)) == count


async def test_a_list_that_is_cut_says_so(h: Harness) -> None:
    for n in range(30):
        h.core.accounts[f"u{n:02}@capulet.example"] = True
    answer = await run(h, "get-registered-users-list", max_items="25")
    assert len(values(answer, "registereduserjids")) == 25
    assert [n.get("type") for n in answer.children if n.name == "note"] == ["warn"]
    error = await refused(run(h, "get-registered-users-list", max_items="26"))
    assert error.condition == "bad-request"


async def test_an_announcement_goes_to_every_session_of_the_host(h: Harness) -> None:
    for user in (JULIET, ROMEO):
        h.core.sessions[user] = [(Jid(f"{user}/{r}"), None, None, False) for r in "ab"]
    answer = await run(h, "announce", announcement=["Going down", "in 2 minutes"])
    assert answer.get("status") == "completed"
    sent = [(str(s.to), str(s.frm), s.type) for s in h.core.sent]
    assert sent == [(f"{u}/{r}", HOST, "headline") for u in (JULIET, ROMEO) for r in "ab"]
    body = h.core.sent[0].payload
    assert body is not None
    assert body.text == "Going down\nin 2 minutes"


async def test_accounts_of_one_command_are_bounded(h: Harness) -> None:
    many = [f"u{n}@capulet.example" for n in range(MOST_JIDS + 1)]
    error: StanzaError = await refused(run(h, "delete-user", accountjids=many))
    assert error.condition == "bad-request"
