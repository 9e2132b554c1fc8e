# SPDX-License-Identifier: Apache-2.0
import base64
from collections.abc import Mapping

import pytest

from antiphon._core import Jid
from antiphon.commands import Command, CommandContext, CommandError, registry
from antiphon.commands.sessions import users_by_activity
from antiphon.storage.model import ScramKeys
from tests.unit.fake_core import Harness, make_config

JULIET = "juliet@capulet.example"


def context(h: Harness, requester: str | None = None) -> CommandContext:
    return CommandContext(
        store=h.assembly.store,
        hosts=h.assembly.contexts,
        requester=None if requester is None else Jid(requester),
    )


async def run(h: Harness, name: str, /, **arguments: object) -> object:
    return await registry()[name].run(context(h), arguments)


@pytest.mark.parametrize("one", registry().values(), ids=registry())
def test_a_command_explains_itself(one: Command) -> None:
    assert one.summary.rstrip(".") != one.summary
    assert len(one.summary) <= 90
    for parameter in one.parameters:
        assert parameter.doc, f"{one.name}: {parameter.name}"


def test_parameters_have_their_kind_and_default() -> None:
    listing = {p.name: p for p in registry()["list_accounts"].parameters}
    assert [(p.kind, p.is_required, p.default) for p in listing.values()] == [
        ("text", True, None),
        ("text", False, None),
        ("number", False, 1_000),
    ]
    assert [p.kind for p in registry()["create_account"].parameters] == ["jid", "secret"]


async def test_accounts_are_made_listed_and_removed() -> None:
    h = Harness()
    await run(h, "create_account", jid="nurse@capulet.example", password="x")
    assert await run(h, "count_accounts", domain="capulet.example") == 4
    found = await run(h, "list_accounts", domain="capulet.example", after="juliet", limit=1)
    assert isinstance(found, list)
    assert [(line.jid, line.is_enabled, line.created) for line in found] == [
        ("nurse@capulet.example", True, "2023-11-14T22:13:20Z")
    ]
    await run(h, "change_password", jid="nurse@capulet.example", password="y")
    assert h.core.passwords["nurse@capulet.example"] == "y"
    await run(h, "delete_account", jid="nurse@capulet.example")
    assert await run(h, "count_accounts", domain="capulet.example") == 3


async def test_an_import_updates_what_exists() -> None:
    h = Harness()
    await run(h, "put_account", jid=JULIET, password="x")
    await run(h, "put_account", jid="new@capulet.example", password="x")
    assert h.core.passwords == {JULIET: "x", "new@capulet.example": "x"}


def keys(**given: object) -> dict[str, object]:
    key = base64.b64encode(b"k" * 32).decode()
    return {
        "jid": JULIET,
        "hash": "sha-256",
        "iterations": 4096,
        "salt": "c2FsdA==",
        "stored_key": key,
        "server_key": key,
        **given,
    }


async def test_keys_of_another_server_are_imported() -> None:
    h = Harness()
    await run(h, "put_account_keys", **keys())
    expected = ScramKeys("sha-256", 4096, b"salt", b"k" * 32, b"k" * 32)
    row = (expected.hash, expected.iterations, expected.salt, expected.stored_key, b"k" * 32)
    assert h.core.calls == [("account.put_keys", (Jid(JULIET), [row]))]


@pytest.mark.parametrize(
    ("name", "arguments", "condition", "part"),
    [
        ("create_account", {"jid": JULIET, "password": "x"}, "conflict", "exists already"),
        ("delete_account", {"jid": "no@capulet.example"}, "item-not-found", "no account no@"),
        ("change_password", {"jid": "no@capulet.example", "password": "x"}, "item-not-found", "no"),
        ("disable_account", {"jid": "no@capulet.example"}, "item-not-found", "no account"),
        ("account_is_enabled", {"jid": "no@capulet.example"}, "item-not-found", "no account"),
        ("end_session", {"jid": "no@capulet.example"}, "item-not-found", "no account"),
        ("delete_account", {"jid": "a@elsewhere.example"}, "item-not-found", "not served here"),
        ("delete_account", {"jid": "capulet.example"}, "jid-malformed", "write name@"),
        ("delete_account", {"jid": "a@b@c/"}, "jid-malformed", "not an address"),
        ("delete_account", {"jid": 7}, "bad-request", "jid is not a jid"),
        ("delete_account", {}, "bad-request", "needs jid"),
        ("delete_account", {"jid": JULIET, "extra": 1}, "bad-request", "no parameter extra"),
        ("list_accounts", {"domain": "capulet.example", "limit": 0}, "bad-request", "1 to 1000"),
        ("list_accounts", {"domain": "capulet.example", "limit": True}, "bad-request", "limit"),
        ("list_sessions", {"domain": "capulet.example", "limit": 1001}, "bad-request", "1 to 1000"),
        ("put_account_keys", keys(hash="md5"), "bad-request", "sha-1"),
        ("put_account_keys", keys(hash="sha-1"), "bad-request", "20 bytes"),
        ("put_account_keys", keys(iterations=0), "bad-request", "out of range"),
        ("put_account_keys", keys(salt="?"), "bad-request", "not base64"),
        ("announce", {"domain": "capulet.example", "text": " "}, "bad-request", "nothing"),
        ("shut_down", {}, "not-allowed", "not stopped"),
    ],
)
async def test_a_refused_command_says_why_in_one_line(
    name: str, arguments: Mapping[str, object], condition: str, part: str
) -> None:
    with pytest.raises(CommandError) as caught:
        await run(Harness(), name, **arguments)
    assert caught.value.condition == condition
    assert part in caught.value.message
    assert "\n" not in caught.value.message


async def test_an_administrator_acts_on_his_hosts_only() -> None:
    h = Harness(make_config("capulet.example", "montague.example", admins=["a@capulet.example"]))
    admin = context(h, "a@capulet.example/x")
    assert admin.account(Jid(JULIET)) == Jid(JULIET)
    for name, arguments in [
        ("delete_account", {"jid": JULIET}),
        ("list_sessions", {"domain": "capulet.example"}),
        ("count_sessions", {}),
        ("statistics", {}),
        ("announce", {"domain": "capulet.example", "text": "x"}),
    ]:
        with pytest.raises(CommandError, match="does not administer"):
            await registry()[name].run(context(h, "b@capulet.example/x"), arguments)


async def test_sessions_are_listed_and_counted() -> None:
    h = Harness()
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/{r}"), 1, None, True) for r in "ab"]
    assert await run(h, "list_sessions", domain="capulet.example", after=f"{JULIET}/a") == [
        f"{JULIET}/b"
    ]
    assert await run(h, "count_sessions") == 2
    assert await run(h, "count_sessions", domain="capulet.example") == 2
    lines = await run(h, "user_sessions", jid=JULIET)
    assert isinstance(lines, list)
    assert [(line.jid, line.priority, line.has_carbons) for line in lines] == [
        (f"{JULIET}/a", 1, True),
        (f"{JULIET}/b", 1, True),
    ]
    assert await run(h, "end_session", jid=f"{JULIET}/a") == 1


async def test_a_disabled_account_has_no_sessions() -> None:
    h = Harness()
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/a"), 1, None, True)]
    await run(h, "disable_account", jid=JULIET)
    assert h.core.sessions[JULIET] == []
    assert await run(h, "account_is_enabled", jid=JULIET) is False
    await run(h, "enable_account", jid=JULIET)
    assert await run(h, "account_is_enabled", jid=JULIET) is True


async def test_many_sessions_are_read_in_pages() -> None:
    h = Harness()
    for n in range(1_201):
        user = f"u{n:04}@capulet.example"
        h.core.sessions[user] = [(Jid(f"{user}/x"), 0, None, False)]
    assert await run(h, "announce", domain="capulet.example", text="hello") == 1_201
    await h.bridge.close(0)
    assert len({str(stanza.to) for stanza in h.core.sent}) == 1_201


async def test_the_active_are_looked_for_only_until_there_are_enough() -> None:
    h = Harness()
    for n in range(200):
        user = f"u{n:04}@capulet.example"
        h.core.sessions[user] = [(Jid(f"{user}/x"), 0, None, False)]
    some = await users_by_activity(context(h), "capulet.example", is_idle=False, most=40)
    assert len(some) == 40
    assert sum(name == "sessions.list" for name, _ in h.core.calls) == 64


async def test_a_node_is_shut_down_after_telling_everyone() -> None:
    h = Harness()
    h.core.sessions[JULIET] = [(Jid(f"{JULIET}/a"), 1, None, True)]
    begun: list[float] = []
    ctx = CommandContext(store=h.assembly.store, hosts=h.assembly.contexts, shut_down=begun.append)
    await registry()["shut_down"].run(ctx, {"delay_s": 30, "announcement": "bye"})
    await h.bridge.close(0)
    assert begun == [30.0]
    assert len(h.core.sent) == 1
    with pytest.raises(CommandError):
        await registry()["shut_down"].run(ctx, {"delay_s": -1})


async def test_the_last_activity_of_an_account() -> None:
    h = Harness()
    h.core.activity[JULIET] = (1_000, "bye", False)
    seen = await run(h, "last_activity", jid=JULIET)
    assert (seen.at, seen.status, seen.is_online) == (  # type: ignore[attr-defined]
        "1970-01-01T00:00:01Z",
        "bye",
        False,
    )
