# SPDX-License-Identifier: Apache-2.0
"""The bridge: drains the core's events into handlers, and submits their answers in batches."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Protocol, cast

from msgspec import Struct

from antiphon import _core
from antiphon._core import HttpRequest
from antiphon.cluster.api import Elsewhere
from antiphon.xep._declare import AfterReply, Answer
from antiphon.xep._registry import Assembly
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import Stanza

log = logging.getLogger(__name__)
core_log = logging.getLogger("antiphon.core")

HttpResponse = tuple[int, Sequence[tuple[str, str]], bytes]
HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class CoreLike(Protocol):
    """The part of the core that the bridge uses."""

    def drain(self, limit: int = 256) -> list[tuple[int, int, object, object]]:
        """See antiphon._core.Core."""

    def submit(self, actions: Sequence[tuple[object, ...]]) -> None:
        """See antiphon._core.Core."""


class BridgeLimits(Struct, frozen=True, kw_only=True):
    """Bounds of what handlers may take.

    `handlers` that await at once (more IQs are answered `resource-constraint`), their deadline,
    calls to the core under way, and learnings of capabilities under way (more are skipped: the next
    presence says the same).
    """

    batch: int = 256
    handlers: int = 4_096
    deadline_s: float = 30.0
    http_deadline_s: float = 60.0
    calls: int = 65_536
    caps: int = 256


class BridgeCounts(Struct):
    """What the bridge has done since the start; the node exports it as metrics."""

    events: int = 0
    iqs: int = 0
    errors: int = 0
    faults: int = 0
    deadlines: int = 0
    rejected: int = 0
    http: int = 0
    calls: int = 0
    batches: int = 0
    bad_actions: int = 0


class Bridge:
    """Between one core and the features; lives on the loop that made it.

    A plain handler runs inline while events are drained, one that awaits gets a task with a
    deadline. Answers of a drain, and those of tasks within one turn of the loop, are one `submit`.
    """

    def __init__(
        self,
        core: CoreLike,
        assembly: Assembly,
        *,
        http: HttpHandler | None = None,
        limits: BridgeLimits | None = None,
    ) -> None:
        self.counts = BridgeCounts()
        self._core = core
        self._http = http
        self._limits = limits or BridgeLimits()
        self._loop = asyncio.get_running_loop()
        self._out: list[tuple[object, ...]] = []
        self._is_flush_due = False
        self._tickets = itertools.count(1)
        self._calls: dict[int, asyncio.Future[object]] = {}
        # Tasks by age: equal deadlines make insertion order the order of expiry, per kind.
        self._tasks: dict[asyncio.Task[None], float] = {}
        self._http_tasks: dict[asyncio.Task[None], float] = {}
        self._caps_tasks: set[asyncio.Task[None]] = set()
        self._overdue: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._eventfd: int | None = None
        self._is_closed = False
        self._elsewhere: Elsewhere | None = None
        self._assembly = assembly
        self.use(assembly)

    def use(self, assembly: Assembly) -> None:
        """Answers by these features from now on (a reload); requests under way end by the old."""
        assembly.bind(self)
        self._assembly = assembly

    def reach(self, elsewhere: Elsewhere) -> None:
        """Carries out calls for entities of other nodes this way from now on."""
        self._elsewhere = elsewhere

    @property
    def pending(self) -> int:
        """Handlers under way."""
        return len(self._tasks) + len(self._http_tasks)

    def start(self, eventfd: int) -> None:
        """Begins to drain whenever the core's eventfd is readable."""
        self._eventfd = eventfd
        self._loop.add_reader(eventfd, self.drain)

    async def close(self, deadline_s: float) -> None:
        """Lets handlers finish until the deadline, cancels the rest, and stops draining.

        Every call under way then fails with `service-unavailable`. The core is still running:
        what is answered here goes out before it stops.
        """
        tasks = {*self._tasks, *self._http_tasks}
        if tasks:
            await asyncio.wait(tasks, timeout=deadline_s)
        self._is_closed = True
        rest = {*self._tasks, *self._http_tasks, *self._caps_tasks}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=deadline_s)
        if self._eventfd is not None:
            self._loop.remove_reader(self._eventfd)
            self._eventfd = None
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for future in self._calls.values():
            if not future.done():
                future.set_exception(StanzaError("service-unavailable", "the server is stopping"))
        self._calls.clear()
        self._flush()

    # Inward.

    def drain(self) -> None:
        """Handles one batch of events and submits what was answered at once."""
        events = self._core.drain(self._limits.batch)
        self.counts.events += len(events)
        due, self._is_flush_due = self._is_flush_due, True
        for kind, ticket, a, b in events:
            if kind == _core.EV_IQ:
                self._on_iq(ticket, cast(Stanza, a), cast(int, b))
            elif kind == _core.EV_RESULT:
                self._resolve(ticket, a)
            elif kind == _core.EV_FAILED:
                text = None if b is None else str(b)
                self._reject(ticket, StanzaError.named(str(a), text))
            elif kind == _core.EV_LOG:
                _on_log(ticket, str(a), cast("dict[str, object]", b))
            elif kind == _core.EV_HTTP:
                self._on_http(ticket, cast(HttpRequest, a))
            elif kind == _core.EV_CAPS:
                self._on_caps(cast(Stanza, a))
            else:
                log.warning("unknown event", extra={"kind": kind})
        self._is_flush_due = due
        self._flush()

    def _on_iq(self, ticket: int, stanza: Stanza, number: int) -> None:
        self.counts.iqs += 1
        try:
            answer = self._assembly.answer(number, stanza)
        except StanzaError as err:
            self._fail(ticket, err)
        except Exception as err:  # noqa: BLE001  the boundary: a fault of ours must not stop the drain
            self._fault(ticket, number, err)
        else:
            if isinstance(answer, CoroutineType):
                self._spawn_iq(ticket, number, answer)
            else:
                self._answer(ticket, number, cast(Answer, answer))

    def _spawn_iq(
        self, ticket: int, number: int, answer: Coroutine[object, object, Answer]
    ) -> None:
        if self.pending >= self._limits.handlers or self._is_closed:
            answer.close()
            self.counts.rejected += 1
            self._fail(ticket, StanzaError("resource-constraint", "the server is busy"))
            return
        self._own(self._run_iq(ticket, number, answer), self._tasks, self._limits.deadline_s)

    async def _run_iq(
        self, ticket: int, number: int, answer: Coroutine[object, object, Answer]
    ) -> None:
        try:
            found = await answer
        except StanzaError as err:
            self._fail(ticket, err)
        except asyncio.CancelledError:
            self._cancelled(ticket, number)
        except Exception as err:  # noqa: BLE001  the boundary: whatever it was, the asker gets an answer
            self._fault(ticket, number, err)
        else:
            self._answer(ticket, number, found)

    def _answer(self, ticket: int, number: int, answer: Answer) -> None:
        if not isinstance(answer, AfterReply):
            self._put((_core.ACT_REPLY, ticket, answer))
            return
        self._put((_core.ACT_REPLY, ticket, answer.payload))
        # Behind the answer in the same order of actions, so the answer is out before it acts.
        self._own(self._follow_up(number, answer), self._tasks, self._limits.deadline_s)

    async def _follow_up(self, number: int, answer: AfterReply) -> None:
        try:
            await answer.then()
        except Exception:
            self.counts.faults += 1
            log.error("follow-up failed", exc_info=True, extra=self._about(number))  # noqa: G201

    def _cancelled(self, ticket: int, number: int) -> None:
        task = asyncio.current_task()
        if task in self._overdue:
            self.counts.deadlines += 1
            log.warning("handler overdue", extra=self._about(number))
            error = StanzaError("internal-server-error", "this took too long", "wait")
        else:
            error = StanzaError("service-unavailable", "the server is stopping", "wait")
        self._fail(ticket, error)

    def _fail(self, ticket: int, error: StanzaError) -> None:
        self.counts.errors += 1
        self._put((_core.ACT_FAIL, ticket, error.condition, error.type, error.text, error.app))

    def _fault(self, ticket: int, number: int, err: Exception) -> None:
        self.counts.faults += 1
        log.warning("handler failed", exc_info=err, extra=self._about(number))
        self._fail(ticket, StanzaError("internal-server-error"))

    def _about(self, number: int) -> dict[str, object]:
        if not 0 <= number < len(self._assembly.handlers):
            return {"handler": number}
        handler = self._assembly.handlers[number]
        return {"feature": handler.feature.name, "handler": handler.function.__name__}

    def _on_caps(self, presence: Stanza) -> None:
        if len(self._caps_tasks) >= self._limits.caps or self._is_closed:
            return
        task = self._loop.create_task(self._learn(presence))
        self._caps_tasks.add(task)
        task.add_done_callback(self._caps_tasks.discard)

    async def _learn(self, presence: Stanza) -> None:
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                await self._assembly.caps_seen(presence)
        except TimeoutError:
            self.counts.deadlines += 1
        except Exception:
            self.counts.faults += 1
            log.warning("capabilities not learnt", exc_info=True)

    # HTTP.

    def _on_http(self, ticket: int, request: HttpRequest) -> None:
        self.counts.http += 1
        if self._http is None:
            self._respond(ticket, (404, (), b""))
        elif self.pending >= self._limits.handlers or self._is_closed:
            self.counts.rejected += 1
            self._respond(ticket, (503, (("retry-after", "5"),), b""))
        else:
            work = self._run_http(self._http, ticket, request)
            self._own(work, self._http_tasks, self._limits.http_deadline_s)

    async def _run_http(self, handler: HttpHandler, ticket: int, request: HttpRequest) -> None:
        try:
            self._respond(ticket, await handler(request))
        except asyncio.CancelledError:
            is_overdue = asyncio.current_task() in self._overdue
            self.counts.deadlines += is_overdue
            self._respond(ticket, (504 if is_overdue else 503, (), b""))
        except Exception:
            self.counts.faults += 1
            log.warning("http handler failed", exc_info=True, extra={"path": request.path})
            self._respond(ticket, (500, (), b""))

    def _respond(self, ticket: int, response: HttpResponse) -> None:
        status, headers, body = response
        self._put((_core.ACT_HTTP, ticket, status, list(headers), body))

    # Tasks and their deadlines.

    def _own(
        self,
        work: Coroutine[object, object, None],
        tasks: dict[asyncio.Task[None], float],
        deadline_s: float,
    ) -> None:
        task = self._loop.create_task(work)
        tasks[task] = self._loop.time() + deadline_s

        def done(task: asyncio.Task[None]) -> None:
            del tasks[task]
            self._overdue.discard(task)

        task.add_done_callback(done)
        if self._reaper is None and not self._is_closed:
            self._reaper = self._loop.call_later(self._tick_s(), self._reap)

    def _tick_s(self) -> float:
        # One timer for all tasks instead of one each; deadlines are kept to a thirtieth.
        return min(self._limits.deadline_s, self._limits.http_deadline_s) / 30

    def _reap(self) -> None:
        self._reaper = None
        now = self._loop.time()
        for tasks in (self._tasks, self._http_tasks):
            for task, deadline in tasks.items():
                if deadline > now:
                    break
                if task not in self._overdue:
                    self._overdue.add(task)
                    task.cancel()
        if self._tasks or self._http_tasks:
            self._reaper = self._loop.call_later(self._tick_s(), self._reap)

    # Outward.

    async def call(self, operation: str, *arguments: object) -> object:
        """Runs an operation at the home of its entity; see antiphon.hooks.context.Link."""
        if self._elsewhere is not None and self._elsewhere.is_away(operation, arguments):
            return await self._elsewhere.call(operation, arguments)
        return await self.call_here(operation, *arguments)

    async def call_here(self, operation: str, *arguments: object) -> object:
        """Runs an operation of this core."""
        if operation not in _core.OPERATIONS:
            raise ValueError(f"the core has no operation {operation!r}")
        ticket, future = self._ticket()
        self._put((_core.ACT_CALL, ticket, operation, arguments))
        try:
            return await future
        finally:
            self._calls.pop(ticket, None)

    async def request(self, stanza: Stanza, timeout_s: float) -> Stanza:
        """Sends an IQ get or set; see antiphon.hooks.context.Link."""
        ticket, future = self._ticket()
        self._put((_core.ACT_REQUEST, ticket, stanza, timeout_s))
        try:
            answer = cast(Stanza, await future)
        finally:
            self._calls.pop(ticket, None)
        if answer.type == "error":
            raise StanzaError.of_stanza(answer)
        return answer

    def send(self, stanza: Stanza) -> None:
        """Routes a stanza of the server; see antiphon.hooks.context.Link."""
        if stanza.frm is None or stanza.to is None:
            raise ValueError("a stanza of the server has both addresses")
        self._put((_core.ACT_SEND, stanza))

    def caps_known(self, hash_name: str, ver: str) -> None:
        """Tells the core about verified capabilities; see antiphon.hooks.context.Link."""
        self._put((_core.ACT_CAPS, hash_name, ver))

    def _ticket(self) -> tuple[int, asyncio.Future[object]]:
        if self._is_closed:
            raise StanzaError("service-unavailable", "the server is stopping", "wait")
        if len(self._calls) >= self._limits.calls:
            self.counts.rejected += 1
            raise StanzaError("resource-constraint", "the server is busy")
        self.counts.calls += 1
        ticket = next(self._tickets)
        future: asyncio.Future[object] = self._loop.create_future()
        self._calls[ticket] = future
        return ticket, future

    def _resolve(self, ticket: int, value: object) -> None:
        # Absent: the caller was cancelled meanwhile.
        future = self._calls.pop(ticket, None)
        if future is not None and not future.done():
            future.set_result(value)

    def _reject(self, ticket: int, error: StanzaError) -> None:
        future = self._calls.pop(ticket, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def _put(self, action: tuple[object, ...]) -> None:
        self._out.append(action)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._is_flush_due = False
        self._flush()

    def _flush(self) -> None:
        if not self._out:
            return
        batch, self._out = self._out, []
        self.counts.batches += 1
        try:
            self._core.submit(batch)
        except (TypeError, ValueError) as err:
            self._salvage(batch, err)

    def _salvage(self, batch: list[tuple[object, ...]], err: Exception) -> None:
        """After an action of the wrong shape: everyone who waits for an answer still gets one.

        The core does not say which action it was, and has carried out those before it. So no
        action is repeated: callers fail, and requests get an error, which the core ignores for
        those that it has answered.
        """
        self.counts.bad_actions += 1
        log.error("action refused by the core", exc_info=err)
        failure = StanzaError("internal-server-error")
        for action in batch:
            kind, ticket = action[0], cast(int, action[1])
            if kind in (_core.ACT_CALL, _core.ACT_REQUEST):
                self._reject(ticket, failure)
                continue
            last: tuple[object, ...] | None = None
            if kind in (_core.ACT_REPLY, _core.ACT_FAIL):
                last = (_core.ACT_FAIL, ticket, failure.condition, failure.type, None, None)
            elif kind == _core.ACT_HTTP:
                last = (_core.ACT_HTTP, ticket, 500, [], b"")
            if last is not None:
                try:
                    self._core.submit([last])
                except (TypeError, ValueError):
                    log.debug("answered before", extra={"ticket": ticket})


def _on_log(level: int, event: str, fields: dict[str, object]) -> None:
    if core_log.isEnabledFor(level):
        # Names that a log record has itself would make logging raise.
        extra = {f"core_{k}" if k in _RESERVED else k: v for k, v in fields.items()}
        core_log.log(level, event, extra=extra)
