# SPDX-License-Identifier: Apache-2.0
"""A seeded load: users on all nodes who write numbered messages and come back after every failure.

The users of tests/durability, spread over a cluster. Each has one session at a time, on a node of
its own choice; after it is cut he goes to the next node, sends again under the same id what was not
acknowledged, and goes on. What every client saw is kept for the checker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from durability.crowd import BROKEN, RESOURCE, Member, Talker, named
from durability.ledger import Ledger, Mark
from durability.sqlite_reader import number_of
from support import ns
from support.archive import place as place_of
from support.client import StreamClosed
from support.endpoint import Account, Endpoint
from support.xml import E, Element

from .records import Sight

NUDGE_S = 0.25
LOGIN_S = 12.0
"""A login that takes longer is given up and tried on the next node."""
CLOSE_S = 15.0
LOGINS = 60
"""At once."""
PAUSE_S = (0.02, 0.15)
"""Between the end of a session and the next try."""

Doors = Callable[[int], Endpoint]
"""The n-th choice of where to connect."""


class Watcher(Talker):
    """A session that also notes what it is given."""

    def __init__(
        self, endpoint: Endpoint, account: Account, ledger: Ledger, sights: list[Sight]
    ) -> None:
        super().__init__(endpoint, account, ledger)
        self._sights = sights
        self.number = number_of(account.user)
        self.session = 0
        self.is_in = False
        """Whether the login came to its end."""
        self.errors: list[str] = []
        """Conditions of stanza errors, in the order in which they came."""
        self.stream_error: str | None = None

    @property
    def is_in_use(self) -> bool:
        """Whether it is a session, and not over."""
        return self.is_in and not self.eof and not self.closed_stream

    def _on_element(self, element: Element) -> None:
        if element.tag == ("error", ns.STREAM):
            self.stream_error = element.condition
        if element.name == "presence" and self.sm is not None:
            self.sm.received += 1
            return
        super()._on_element(element)

    def _message(self, element: Element) -> None:
        if element.type == "error":
            self.errors.append(element.at("error").condition or "")
        elif element.body is not None and self.account is not None:
            owner = self.account.jid
            self._sights.append(
                Sight(
                    time.monotonic(),
                    self.number,
                    self.session,
                    number_of((element.frm or "").partition("/")[0]),
                    number_of((element.to or "").partition("/")[0]),
                    place_of(element, owner),
                    element.body,
                )
            )
        super()._message(element)


@dataclass
class Drop:
    """One session that ended before its time, and the next one."""

    user: int
    at: float
    door: str
    """The address that it was connected to."""
    reason: str = ""
    session: int = 0
    bound_at: float = 0.0
    """When the user had a session again; 0: not yet."""
    was_resumed: bool = False

    @property
    def gap_s(self) -> float:
        """How long the user had no session."""
        return self.bound_at - self.at


@dataclass
class Person(Member):
    """One user of a cluster, across all his sessions."""

    sights: list[Sight] = field(default_factory=list)
    talker: Watcher | None = None
    drops: list[Drop] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    choice: int = 0
    session: int = 0
    tries: int = 0
    """Logins that failed."""
    always_resumes: bool = False
    failed_resumptions: int = 0

    @property
    def resumes(self) -> bool:
        """Every third, or all."""
        return self.always_resumes or super().resumes

    async def login(self, endpoint: Endpoint) -> None:
        """A new session or (XEP-0198 #resumption) the last one, on any node."""
        talker = Watcher(endpoint, self.account, self.ledger, self.sights)
        self.talker = talker
        talker.errors = self.errors
        await talker.negotiate()
        await talker.authenticate("PLAIN")
        talker.session = self.session
        if self.resumes and self.old is not None:
            if await self._resume(talker, self.old):
                talker.is_in = True
                return
            self.failed_resumptions += 1
        self.session += 1
        talker.session = self.session
        await talker.bind(RESOURCE)
        await talker.sm_enable(resume=True)
        talker.send(E("presence", ns.CLIENT))
        talker.is_in = True

    async def _resume(self, talker: Talker, old: Talker) -> bool:
        """As for any member; where the connection ends before the answer, it is tried again."""
        answer = await talker.sm_resume(old)
        self.old = None
        if answer.name != "resumed":
            return False
        h = int(answer.get("h") or 0)
        for _ in range(h - old.covered):
            mark = old.in_flight.popleft()
            if mark is not None:
                assert self.waiting.popleft() == mark, "sent again in another order"
                self.ledger.acknowledge(mark)
        talker.covered = h
        self.resumed += 1
        return True

    def leave(self) -> None:
        """As for any member; a login that broke off leaves nothing to resume."""
        talker, before = self.talker, self.old
        super().leave()
        if talker is not None and not talker.is_in:
            self.old = before

    async def chat(self, quiet: asyncio.Event, pace_s: float) -> None:
        """One message each `pace_s` until `quiet`, then until all is acknowledged.

        Raises `StreamClosed` when the connection ends.
        """
        talker = self.talker
        assert talker is not None
        host = self.account.domain
        due = time.monotonic() + random.uniform(0, pace_s)
        while not quiet.is_set() or self.waiting or any(talker.in_flight):
            if talker.eof or talker.closed_stream:
                raise StreamClosed(_why(talker))
            marks = self._due(talker, due, is_quiet=quiet.is_set())
            talker.moved.clear()
            if marks:
                talker.say(marks, host, with_origin=self.with_origin)
                due = max(due + pace_s, time.monotonic() - 5 * pace_s)
            rest_s = min(NUDGE_S, max(0.01, due - time.monotonic()))
            try:
                async with asyncio.timeout(NUDGE_S if marks else rest_s):
                    await talker.moved.wait()
            except TimeoutError:
                if any(talker.in_flight):
                    talker.nudge()

    def _due(self, talker: Talker, due: float, *, is_quiet: bool) -> list[Mark]:
        """What goes out now: first all that was left open, then one new message in its time."""
        room = self.window - len(talker.in_flight)
        if self.waiting:
            return [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        if is_quiet or room <= 0 or time.monotonic() < due:
            return []
        return self._next_one()

    def _next_one(self) -> list[Mark]:
        peer = self.peers[sum(self.counters.values()) % len(self.peers)]
        self.counters[peer] = self.counters.get(peer, 0) + 1
        return [Mark(self.number, peer, self.counters[peer])]


def _why(talker: Watcher) -> str:
    return talker.stream_error or "the connection ended"


class Load:
    """All users; start, wait, `settle`, `close`."""

    def __init__(
        self,
        accounts: Sequence[Account],
        doors: Doors,
        *,
        per_second: float = 150.0,
        window: int = 40,
        seed: int = 1,
        reach: int = 3,
        always_resume: bool = False,
    ) -> None:
        """`accounts` are named p000, p001 …; all of them together send `per_second` messages.

        Everybody writes to `reach` others that the seed chooses.
        """
        self.ledger = Ledger()
        self.sights: list[Sight] = []
        self._doors = doors
        self._pace_s = len(accounts) / per_second
        dice = random.Random(seed)
        numbers = list(range(len(accounts)))
        self.people = []
        for number, account in enumerate(accounts):
            assert account.user == named(number), f"{account.user} is not {named(number)}"
            others = [n for n in numbers if n != number]
            peers = dice.sample(others, min(reach, len(others)))
            person = Person(number, account, peers, self.ledger, window, sights=self.sights)
            person.choice, person.always_resumes = number, always_resume
            self.people.append(person)
        self._tasks: list[asyncio.Task[None]] = []
        self._quiet = asyncio.Event()
        self._turns = asyncio.Semaphore(LOGINS)

    def start(self) -> None:
        """Everybody logs in and writes, and comes back whenever he is thrown out."""
        self._quiet.clear()
        self._tasks = [asyncio.create_task(self._live(person)) for person in self.people]

    async def all_in(self, timeout_s: float = 60.0) -> None:
        """Waits until everybody has a session."""
        deadline = time.monotonic() + timeout_s
        while self.out:
            self.check()
            left = self.out
            assert time.monotonic() < deadline, f"{len(left)} users are out, first: {left[:5]}"
            await asyncio.sleep(0.05)

    @property
    def out(self) -> list[int]:
        """Users without a session."""
        return [
            person.number
            for person in self.people
            if person.talker is None or not person.talker.is_in_use
        ]

    def check(self) -> None:
        """Raises what went wrong in the load itself."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise RuntimeError("the load itself failed") from task.exception()

    async def _live(self, person: Person) -> None:
        while True:
            door = self._doors(person.choice)
            try:
                async with self._turns, asyncio.timeout(LOGIN_S):
                    await person.login(door)
            except BROKEN:
                person.leave()
                person.tries += 1
                person.choice += 1
                await asyncio.sleep(random.uniform(*PAUSE_S))
                continue
            self._bound(person)
            try:
                await person.chat(self._quiet, self._pace_s)
                return
            except BROKEN as error:
                now = time.monotonic()
                person.drops.append(Drop(person.number, now, door.host, str(error), person.session))
                person.leave()
                person.choice += 1
                await asyncio.sleep(random.uniform(*PAUSE_S))

    @staticmethod
    def _bound(person: Person) -> None:
        if person.drops and not person.drops[-1].bound_at:
            drop = person.drops[-1]
            drop.bound_at = time.monotonic()
            drop.was_resumed = drop.session == person.session

    async def settle(self, timeout_s: float = 60.0) -> None:
        """Nobody writes anything new; waits until all is acknowledged. Sessions stay open."""
        self._quiet.set()
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        self.check()
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
        open_ = [mark.id for mark in self.ledger.sent.keys() - self.ledger.acknowledged.keys()]
        assert not pending, (
            f"{len(open_)} messages were never acknowledged, first: {sorted(open_)[:5]}; "
            f"{len(self.out)} users are out"
        )

    async def quiesce(self, quiet_s: float = 0.7, timeout_s: float = 20.0) -> None:
        """Waits until nothing has been delivered for a while."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            last = self.sights[-1].at if self.sights else 0.0
            if time.monotonic() - last > quiet_s:
                return
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Ends every session, in order where it still can be."""
        open_ = [task for task in self._tasks if not task.done()]
        deadline = time.monotonic() + CLOSE_S
        while open_ and time.monotonic() < deadline:
            for task in open_:
                task.cancel()  # again and again: one that just came to its end may be lost
            await asyncio.wait(open_, timeout=0.5)
            open_ = [task for task in open_ if not task.done()]
        assert not open_, f"{len(open_)} users do not end"
        talkers = [person.talker for person in self.people if person.talker is not None]
        await asyncio.gather(*(talker.close() for talker in talkers), return_exceptions=True)
        for person in self.people:
            person.leave()

    # -- figures ---------------------------------------------------------
    @property
    def drops(self) -> list[Drop]:
        """Every session that ended before its time."""
        return [drop for person in self.people for drop in person.drops]

    @property
    def errors(self) -> list[str]:
        """Conditions of all stanza errors."""
        return [error for person in self.people for error in person.errors]

    @property
    def resumed(self) -> int:
        """Sessions that went on over another connection."""
        return sum(person.resumed for person in self.people)

    @property
    def failed_resumptions(self) -> int:
        """Attempts that the server did not grant."""
        return sum(person.failed_resumptions for person in self.people)

    def rate_between(self, begin: float, end: float) -> float:
        """Messages acknowledged in a second, between two moments."""
        count = sum(1 for at in self.ledger.acknowledged.values() if begin <= at < end)
        return count / (end - begin)

    def __str__(self) -> str:
        gaps = sorted(drop.gap_s for drop in self.drops if drop.bound_at)
        worst = f", longest gap {gaps[-1]:.2f} s" if gaps else ""
        return (
            f"{len(self.people)} users: {len(self.ledger.sent)} sent, "
            f"{len(self.ledger.acknowledged)} acknowledged, {self.ledger.repeated} sent again, "
            f"{len(self.sights)} seen; {len(self.drops)} sessions dropped, {self.resumed} resumed "
            f"({self.failed_resumptions} not){worst}; {len(self.errors)} errors"
        )
