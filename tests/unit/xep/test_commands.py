# SPDX-License-Identifier: Apache-2.0
"""XEP-0050, by the commands of XEP-0133 and by one with several stages."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from antiphon._core import Element, Jid
from antiphon.storage.context import Context
from antiphon.xep._declare import Iq, Rfc
from antiphon.xep._registry import Assembly, registry
from antiphon.xep.xep_0050_commands import (
    ADHOC_COMMANDS,
    LIFETIME,
    MOST_SESSIONS_EACH,
    SESSIONS,
    AdHocCommand,
    Done,
    Note,
    Stage,
)
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.forms import Field, Form, Submission
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

HOST = "capulet.example"
JULIET = "juliet@capulet.example/balcony"
FORM = Form(kind="form", form_type="urn:x", fields=(Field(var="name", is_required=True),))


def feature() -> Rfc:
    """A command of two stages, open to everyone; `bad` as a name fails at the end."""
    found = Rfc(9999, "1", title="Test")
    found.bind("zz_test")

    async def start(_ctx: Context, _iq: Iq) -> Stage:
        async def first(one: Submission) -> Stage:
            async def second(two: Submission) -> Done:
                if two.text("name") == "bad":
                    raise StanzaError("conflict", "taken")
                return Done(notes=(Note(f"{one.text('name')} {two.text('name')}"),))

            return Stage(form=FORM, submit=second)

        return Stage(form=FORM, submit=first, is_last=False)

    @found.hook(ADHOC_COMMANDS)
    def offered(_ctx: Context, _requester: Jid) -> Sequence[AdHocCommand]:
        return [AdHocCommand(node="two", name="Two stages", start=start)]

    return found


@pytest.fixture
async def h() -> Harness:
    config = make_config(admins=["admin@capulet.example"])
    return Harness(assembly=Assembly([*registry().features, feature()], config, {}))


def submit(name: str | None) -> Element:
    field = E("field", ns.DATA, E("value", ns.DATA, name) if name else None, var="name")
    return E("x", ns.DATA, field, type="submit")


async def run(h: Harness, *children: Element, frm: str = JULIET, **attrs: str | None) -> Element:
    given = {"node": "two", **attrs}
    answer = await h.iq("set", E("command", ns.COMMANDS, *children, **given), frm=frm, to=HOST)
    assert answer is not None
    return answer


def detail(error: StanzaError) -> tuple[str, str | None]:
    return error.condition, None if error.app is None else error.app.name


def actions(answer: Element) -> list[str]:
    element = answer.find(ns.COMMANDS, "actions")
    return [] if element is None else [child.name for child in element.children]


async def test_a_command_goes_forward_back_and_to_its_end(h: Harness) -> None:
    first = await run(h)
    key = first.get("sessionid")
    assert (first.get("status"), actions(first)) == ("executing", ["next"])
    second = await run(h, submit("a"), sessionid=key, action="next")
    assert (second.get("sessionid"), actions(second)) == (key, ["prev", "complete"])
    back = await run(h, sessionid=key, action="prev")
    assert actions(back) == ["next"]
    await run(h, submit("b"), sessionid=key)
    done = await run(h, submit("c"), sessionid=key, action="complete")
    assert (done.get("status"), done.children[0].text) == ("completed", "b c")
    error = await refused(run(h, submit("c"), sessionid=key))
    assert detail(error) == ("not-allowed", "session-expired")


async def test_a_command_is_cancelled(h: Harness) -> None:
    key = (await run(h)).get("sessionid")
    assert (await run(h, sessionid=key, action="cancel")).get("status") == "canceled"
    error = await refused(run(h, submit("a"), sessionid=key))
    assert detail(error) == ("not-allowed", "session-expired")


async def test_a_session_belongs_to_one_full_jid(h: Harness) -> None:
    key = (await run(h)).get("sessionid")
    for other in ("juliet@capulet.example/chamber", "romeo@capulet.example/orchard"):
        error = await refused(run(h, submit("a"), sessionid=key, frm=other))
        assert detail(error) == ("not-allowed", "session-expired")
    assert (await run(h, submit("a"), sessionid=key)).get("status") == "executing"


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ({"action": "dance"}, ("bad-request", "malformed-action")),
        ({"action": "prev"}, ("bad-request", "bad-action")),
        ({"action": "cancel"}, ("bad-request", "bad-sessionid")),
        ({"node": None}, ("bad-request", None)),
        ({"node": "nothing"}, ("item-not-found", None)),
        ({"node": f"{ns.ADMIN}#add-user"}, ("forbidden", None)),
    ],
)
async def test_a_command_that_cannot_begin_is_refused(
    h: Harness, attrs: dict[str, str | None], expected: tuple[str, str | None]
) -> None:
    assert detail(await refused(run(h, frm=JULIET, **attrs))) == expected


@pytest.mark.parametrize(
    ("children", "attrs", "expected"),
    [
        ([submit(None)], {}, ("bad-request", "bad-payload")),
        ([], {}, ("bad-request", None)),
        ([submit("a")], {"action": "complete"}, ("bad-request", "bad-action")),
        ([submit("a")], {"action": "prev"}, ("bad-request", "bad-action")),
    ],
)
async def test_a_step_that_is_refused_leaves_the_session(
    h: Harness,
    children: list[Element],
    attrs: dict[str, str],
    expected: tuple[str, str | None],
) -> None:
    key = (await run(h)).get("sessionid")
    assert detail(await refused(run(h, *children, sessionid=key, **attrs))) == expected
    assert (await run(h, submit("a"), sessionid=key)).get("status") == "executing"


async def test_the_session_of_another_command_is_refused(h: Harness) -> None:
    admin = "admin@capulet.example/x"
    key = (await run(h, frm=admin)).get("sessionid")
    error = await refused(
        run(h, submit("a"), sessionid=key, frm=admin, node=f"{ns.ADMIN}#announce")
    )
    assert detail(error) == ("bad-request", "bad-sessionid")


async def test_a_command_that_fails_answers_with_its_error(h: Harness) -> None:
    key = (await run(h)).get("sessionid")
    await run(h, submit("a"), sessionid=key)
    error = await refused(run(h, submit("bad"), sessionid=key))
    assert (error.condition, error.text) == ("conflict", "taken")


async def test_sessions_expire_and_are_bounded(h: Harness) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ctx = msgspec.structs.replace(h.assembly.contexts[HOST], clock=lambda: now)
    h.assembly.contexts[HOST] = ctx
    keys = [(await run(h)).get("sessionid") for _ in range(MOST_SESSIONS_EACH + 1)]
    assert len(SESSIONS.of(ctx)) == MOST_SESSIONS_EACH
    error = await refused(run(h, submit("a"), sessionid=keys[0]))
    assert detail(error) == ("not-allowed", "session-expired")
    now += LIFETIME - timedelta(seconds=1)
    await run(h, submit("a"), sessionid=keys[1])
    now += timedelta(seconds=1)
    await refused(run(h, submit("a"), sessionid=keys[2]))
    assert len(SESSIONS.of(ctx)) == 1


async def listed(h: Harness, frm: str) -> list[str]:
    query = E("query", ns.DISCO_ITEMS, node=ns.COMMANDS)
    answer = await h.iq("get", query, frm=frm, to=HOST)
    assert answer is not None
    return [item.get("node") or "" for item in answer.children]


async def test_commands_are_hidden_from_those_who_may_not_run_them(h: Harness) -> None:
    assert await listed(h, JULIET) == ["urn:xmpp:mam#configure", "two"]
    everything = await listed(h, "admin@capulet.example/x")
    assert f"{ns.ADMIN}#add-user" in everything
    assert f"{ns.ADMIN}#get-user-password" not in everything


async def test_a_command_is_described_under_its_node(h: Harness) -> None:
    async def info(node: str) -> Element:
        query = E("query", ns.DISCO_INFO, node=node)
        answer = await h.iq("get", query, frm=JULIET, to=HOST)
        assert answer is not None
        return answer

    # XEP-0050 #disco
    identity = (await info("two")).children[0]
    assert identity.attrs == {
        "category": "automation",
        "type": "command-node",
        "name": "Two stages",
    }
    assert (await info(ns.COMMANDS)).children[0].get("type") == "command-list"
    assert (await refused(info(f"{ns.ADMIN}#add-user"))).condition == "forbidden"
