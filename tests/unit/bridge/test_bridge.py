# SPDX-License-Identifier: Apache-2.0
import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from antiphon import _core
from antiphon._core import Element, HttpRequest, Jid, Stanza
from antiphon.node.bridge import Bridge, BridgeLimits, HttpResponse
from antiphon.storage.context import Context
from antiphon.xep._declare import AfterReply, Answer, Rfc
from antiphon.xep._registry import Assembly
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E, Iq
from tests.unit.fake_core import Harness, Request, make_config, refused

NS = "urn:test"
QUICK = BridgeLimits(deadline_s=0.05, http_deadline_s=0.05)
Function = Callable[[Context, Iq], Answer | Awaitable[Answer]]


def harness(function: Function, limits: BridgeLimits | None = None) -> Harness:
    feature = Rfc(9999, "1", title="Test")
    feature.bind("test")
    feature.iq("get", NS, "q", to="host")(function)
    return Harness(assembly=Assembly([feature], make_config(), {}), limits=limits)


async def ask(h: Harness) -> Element | None:
    return await h.iq("get", E("q", NS), to="capulet.example")


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_plain_handler_is_answered_in_its_own_drain() -> None:
    h = harness(lambda _ctx, _iq: E("a", NS))
    ticket = h.put_iq("get", E("q", NS), to="capulet.example")
    h.bridge.drain()
    assert h.core.answers[ticket] == E("a", NS)
    assert h.bridge.pending == 0


async def test_answers_of_one_drain_are_one_batch() -> None:
    h = harness(lambda _ctx, _iq: None)
    for _ in range(5):
        h.put_iq("get", E("q", NS), to="capulet.example")
    h.bridge.drain()
    assert [len(batch) for batch in h.core.batches] == [5]


async def test_answers_of_one_turn_of_the_loop_are_one_batch() -> None:
    async def handler(_ctx: Context, _iq: Iq) -> None:
        await asyncio.sleep(0)

    h = harness(handler)
    tickets = [h.put_iq("get", E("q", NS), to="capulet.example") for _ in range(5)]
    for ticket in tickets:
        await h.answer(ticket)
    assert [len(batch) for batch in h.core.batches] == [5]


async def test_a_long_queue_is_drained_in_batches() -> None:
    h = harness(lambda _ctx, _iq: None)
    tickets = [h.put_iq("get", E("q", NS), to="capulet.example") for _ in range(600)]
    await h.answer(tickets[-1])
    assert [len(batch) for batch in h.core.batches] == [256, 256, 88]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_stanza_error_is_the_answer(is_async: bool) -> None:
    def plain(_ctx: Context, _iq: Iq) -> None:
        raise StanzaError("conflict", "why", "wait", E("app", NS))

    async def waiting(ctx: Context, iq: Iq) -> None:
        plain(ctx, iq)

    error = await refused(ask(harness(waiting if is_async else plain)))
    assert (error.condition, error.text, error.type) == ("conflict", "why", "wait")
    assert error.app == E("app", NS)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_fault_is_logged_once_counted_and_hidden(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(_ctx: Context, _iq: Iq) -> None:
        raise KeyError("secret")

    async def waiting(ctx: Context, iq: Iq) -> None:
        plain(ctx, iq)

    h = harness(waiting if is_async else plain)
    error = await refused(ask(h))
    assert (error.condition, error.text) == ("internal-server-error", None)
    assert h.bridge.counts.faults == 1
    (record,) = [r for r in caplog.records if r.message == "handler failed"]
    assert vars(record)["feature"] == "test"


async def test_a_handler_beyond_its_deadline_is_cancelled_and_answered() -> None:
    was_cancelled = asyncio.Event()

    async def handler(_ctx: Context, _iq: Iq) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    h = harness(handler, QUICK)
    ticket = h.put_iq("get", E("q", NS), to="capulet.example")
    await asyncio.wait_for(was_cancelled.wait(), 5)
    error = await h.answer(ticket)
    assert isinstance(error, StanzaError)
    assert (error.condition, error.type) == ("internal-server-error", "wait")
    assert h.bridge.counts.deadlines == 1
    assert h.bridge.pending == 0


async def test_above_the_bound_requests_are_refused_and_those_under_way_go_on() -> None:
    gate = asyncio.Event()

    async def handler(_ctx: Context, _iq: Iq) -> None:
        await gate.wait()

    h = harness(handler, BridgeLimits(handlers=2))
    tickets = [h.put_iq("get", E("q", NS), to="capulet.example") for _ in range(3)]
    error = await h.answer(tickets[2])
    assert isinstance(error, StanzaError)
    assert (error.condition, error.type) == ("resource-constraint", "wait")
    gate.set()
    assert [await h.answer(ticket) for ticket in tickets[:2]] == [None, None]
    assert h.bridge.counts.rejected == 1


async def test_what_comes_after_a_reply_acts_behind_it() -> None:
    async def handler(ctx: Context, _iq: Iq) -> AfterReply:
        async def then() -> None:
            await ctx.store.accounts.delete(Jid("romeo@capulet.example"))

        return AfterReply(None, then)

    h = harness(handler)
    await ask(h)
    await turns()
    kinds = [action[0] for batch in h.core.batches for action in batch]
    assert kinds == [_core.ACT_REPLY, _core.ACT_CALL]
    assert "romeo@capulet.example" not in h.core.accounts


async def test_a_failing_follow_up_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def then() -> None:
        raise RuntimeError

    h = harness(lambda _ctx, _iq: AfterReply(None, then))
    await ask(h)
    await turns()
    assert [r.levelno for r in caplog.records if r.message == "follow-up failed"] == [logging.ERROR]


async def test_a_call_gives_its_result_or_raises_the_cores_error() -> None:
    h = harness(lambda _ctx, _iq: None)
    jid = Jid("juliet@capulet.example")
    assert await h.bridge.call("account.exists", jid) is True
    error = await refused(h.bridge.call("account.password", Jid("no@capulet.example"), "x"))
    assert error.condition == "item-not-found"
    with pytest.raises(ValueError, match="no operation"):
        await h.bridge.call("account.explode")


async def test_a_result_for_a_cancelled_caller_is_ignored() -> None:
    h = harness(lambda _ctx, _iq: None)
    h.core.held.add("account.exists")
    task = asyncio.create_task(h.bridge.call("account.exists", Jid("juliet@capulet.example")))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    h.core.put(_core.EV_RESULT, 1, True)
    await turns()
    assert await h.bridge.call("account.count", "capulet.example") == 3


async def test_calls_under_way_are_bounded() -> None:
    h = harness(lambda _ctx, _iq: None, BridgeLimits(calls=1))
    h.core.held.add("account.count")
    task = asyncio.create_task(h.bridge.call("account.count", "capulet.example"))
    await turns()
    error = await refused(h.bridge.call("account.count", "capulet.example"))
    assert error.condition == "resource-constraint"
    task.cancel()


async def test_a_request_gives_the_result_or_raises_the_peers_error() -> None:
    h = harness(lambda _ctx, _iq: None)
    stanza = Stanza("iq", type="get", frm=Jid("a.example"), to=Jid("b.example"))
    h.core.peer = lambda _stanza: Request(type="result", payload=E("a", NS))
    assert (await h.bridge.request(stanza, 1.0)).payload == E("a", NS)
    failure = E("error", "jabber:client", E("gone", "urn:ietf:params:xml:ns:xmpp-stanzas"))
    h.core.peer = lambda _stanza: Request(type="error", payload=failure)
    assert (await refused(h.bridge.request(stanza, 1.0))).condition == "gone"
    h.core.peer = None
    assert (await refused(h.bridge.request(stanza, 1.0))).condition == "remote-server-timeout"


async def test_a_stanza_without_addresses_is_not_sent() -> None:
    h = harness(lambda _ctx, _iq: None)
    with pytest.raises(ValueError, match="both addresses"):
        h.bridge.send(Stanza("message", to=Jid("a.example")))


async def test_log_records_of_the_core_keep_level_and_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    h = harness(lambda _ctx, _iq: None)
    h.core.put(_core.EV_LOG, logging.WARNING, "stream closed", {"host": "h", "name": "n"})
    h.bridge.drain()
    (record,) = caplog.records
    assert (record.name, record.levelname, record.message) == (
        "antiphon.core",
        "WARNING",
        "stream closed",
    )
    assert (vars(record)["host"], vars(record)["core_name"]) == ("h", "n")


async def respond(handler: Callable[[HttpRequest], Awaitable[HttpResponse]] | None) -> object:
    h = Harness(http=handler, limits=QUICK)
    h.core.put(_core.EV_HTTP, 1, SimpleNamespace(path="/"))
    for _ in range(1_000):
        if 1 in h.core.responses:
            break
        await asyncio.sleep(0.001)
    return h.core.responses[1]


async def test_http_requests_get_an_answer_whatever_happens() -> None:
    async def good(request: HttpRequest) -> HttpResponse:
        return 200, [("content-type", "text/plain")], request.path.encode()

    async def faulty(_request: HttpRequest) -> HttpResponse:
        raise RuntimeError

    async def slow(_request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(60)
        raise AssertionError

    assert await respond(good) == (200, [("content-type", "text/plain")], b"/")
    assert await respond(faulty) == (500, [], b"")
    assert await respond(slow) == (504, [], b"")
    assert await respond(None) == (404, [], b"")


async def test_an_action_of_the_wrong_shape_leaves_nobody_without_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = cast(Element, "not an element")
    answers = iter([E("a", NS), bad, E("b", NS)])
    h = harness(lambda _ctx, _iq: next(answers))
    tickets = [h.put_iq("get", E("q", NS), to="capulet.example") for _ in range(3)]
    h.bridge.drain()
    assert h.core.answers[tickets[0]] == E("a", NS)
    for ticket in tickets[1:]:
        error = h.core.answers[ticket]
        assert isinstance(error, StanzaError)
        assert error.condition == "internal-server-error"
    assert h.bridge.counts.bad_actions == 1


async def test_closing_waits_for_handlers_then_answers_the_rest() -> None:
    async def handler(_ctx: Context, iq: Iq) -> None:
        await asyncio.sleep(0.01 if iq.payload.get("quick") else 60)

    h = harness(handler)
    quick = h.put_iq("get", E("q", NS, quick="1"), to="capulet.example")
    slow = h.put_iq("get", E("q", NS), to="capulet.example")
    await turns()
    await h.bridge.close(0.1)
    assert h.core.answers[quick] is None
    error = h.core.answers[slow]
    assert isinstance(error, StanzaError)
    assert error.condition == "service-unavailable"
    assert h.bridge.pending == 0
    late = await refused(h.bridge.call("account.count", "capulet.example"))
    assert late.condition == "service-unavailable"


async def test_closing_fails_the_calls_of_others() -> None:
    h = harness(lambda _ctx, _iq: None)
    h.core.held.add("account.count")
    task = asyncio.create_task(h.bridge.call("account.count", "capulet.example"))
    await turns()
    await h.bridge.close(0.1)
    assert (await refused(task)).condition == "service-unavailable"


async def test_a_reload_changes_who_answers() -> None:
    h = harness(lambda _ctx, _iq: E("old", NS))
    assert await ask(h) == E("old", NS)
    feature = Rfc(9999, "1", title="Test")
    feature.bind("test")
    feature.iq("get", NS, "q", to="host")(lambda _ctx, _iq: E("new", NS))
    h.bridge.use(Assembly([feature], make_config(), {}))
    assert await ask(h) == E("new", NS)


async def test_the_bridge_reads_when_the_descriptor_is_readable() -> None:
    h = Harness()
    h.core.wake = lambda: None
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    bridge: Bridge = h.bridge
    bridge.start(descriptor)
    h.core.put(_core.EV_LOG, logging.INFO, "x", {})
    os.eventfd_write(descriptor, 1)
    await asyncio.sleep(0.01)
    assert bridge.counts.events == 1
    await bridge.close(0)
    os.close(descriptor)
