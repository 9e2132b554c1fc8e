# SPDX-License-Identifier: Apache-2.0
"""Users who write to each other as fast as the server acknowledges, and come back after a crash.

Each user has one session with stream management at a time. What the server's `h` has covered goes
to the ledger; what it has not is sent again, under the same id, on the next session.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field
from math import inf

from support import ns
from support.client import LIVE, Client, StreamClosed
from support.endpoint import Account, Endpoint
from support.xml import Element, message

from .ledger import Ledger, Mark

BATCH = 10
"""Messages between two requests for an acknowledgement."""
NUDGE_S = 0.2
"""After so long without an acknowledgement it is asked for again."""
RESOURCE = "phone"
LOGINS = 10
"""At once."""
BROKEN = (StreamClosed, ConnectionError, OSError, TimeoutError, AssertionError)
"""What a client meets when its server is killed at any moment, login included."""


class Talker(Client):
    """A client that counts what it sends and receives, and keeps none of it."""

    def __init__(self, endpoint: Endpoint, account: Account, ledger: Ledger) -> None:
        super().__init__(endpoint, account)
        LIVE.remove(self)
        self.auto_ack = True
        self.moved = asyncio.Event()
        self.in_flight: deque[Mark | None] = deque()
        self.received = 0
        self._ledger = ledger
        self.covered = 0

    def _note(self, way: str, text: str) -> None:
        """Nothing is logged: there is too much of it."""

    def _on_element(self, element: Element) -> None:
        if self.sm is not None and element.tag == ("a", ns.SM):
            self._cover(int(element.get("h") or 0))
        elif self.sm is not None and element.tag == ("message", ns.CLIENT):
            self.sm.received += 1
            self._message(element)
        else:
            super()._on_element(element)

    def _message(self, element: Element) -> None:
        if element.type == "error":
            for mark in self.in_flight:
                if mark is not None and mark.id == element.id:
                    self._ledger.refused.add(mark)
        elif element.body is None:
            self.inbox.append(element)
        else:
            self.received += 1

    def _cover(self, h: int) -> None:
        for _ in range(h - self.covered):
            mark = self.in_flight.popleft()
            if mark is not None:
                self._ledger.acknowledge(mark)
        self.covered = h
        self.moved.set()

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        super().lost(reason)
        self.moved.set()

    def send(self, element: Element) -> str:
        """Counts what is not a message of the crowd."""
        if self.sm is not None and element.ns in ("", ns.CLIENT):
            self.in_flight.append(None)
        return super().send(element)

    def say(self, marks: list[Mark], host: str, *, with_origin: bool) -> None:
        """Sends messages and asks for an acknowledgement, in one write."""
        text = []
        for mark in marks:
            self._ledger.send(mark)
            self.in_flight.append(mark)
            origin = f"<origin-id xmlns='{ns.SID}' id='{mark.id}'/>" if with_origin else ""
            text.append(
                f"<message to='{named(mark.receiver)}@{host}' type='chat' id='{mark.id}'>"
                f"<body>{mark.text}</body>{origin}</message>"
            )
        text.append(f"<r xmlns='{ns.SM}'/>")
        self.transport.write("".join(text))

    async def rest(self) -> None:
        """Waits until all that was sent is acknowledged."""
        self.nudge()
        await self.wait_for(lambda: not self.in_flight, 30.0, "acknowledgement")

    def nudge(self) -> None:
        """Asks for an acknowledgement."""
        self.transport.write(f"<r xmlns='{ns.SM}'/>")


def named(number: int) -> str:
    """A user's localpart."""
    return f"p{number:03d}"


@dataclass
class Member:
    """One user, across all his sessions."""

    number: int
    account: Account
    peers: list[int]
    ledger: Ledger
    window: int
    counters: dict[int, int] = field(default_factory=dict)
    waiting: deque[Mark] = field(default_factory=deque)
    """Sent on a session that is gone, and not acknowledged there."""
    talker: Talker | None = None
    old: Talker | None = None
    """The last session, if it might be resumed."""
    received: int = 0
    resumed: int = 0

    @property
    def with_origin(self) -> bool:
        """Every other user marks messages with an origin-id (XEP-0359)."""
        return self.number % 2 == 0

    @property
    def resumes(self) -> bool:
        """Every third user tries to resume his session."""
        return self.number % 3 == 0

    async def login(self, endpoint: Endpoint) -> None:
        """A new session or (XEP-0198 #resumption) the last one; first it sends what was left open."""
        talker = Talker(endpoint, self.account, self.ledger)
        self.talker = talker
        await talker.negotiate()
        await talker.authenticate()
        if self.resumes and self.old is not None and await self._resume(talker, self.old):
            return
        await talker.bind(RESOURCE)
        await talker.sm_enable(resume=True)
        talker.send(Element("presence", ns.CLIENT, {}))

    async def _resume(self, talker: Talker, old: Talker) -> bool:
        """Whether the old session goes on; then what its `h` covers is not sent again."""
        self.old = None
        answer = await talker.sm_resume(old)
        if answer.name != "resumed":
            return False
        h = int(answer.get("h") or 0)
        for _ in range(h - old.covered):
            mark = old.in_flight.popleft()
            if mark is not None:
                assert self.waiting.popleft() == mark
                self.ledger.acknowledge(mark)
        talker.covered = h
        self.resumed += 1
        return True

    def leave(self) -> None:
        """Takes note of what the session leaves open; the connection is gone or is cut."""
        if self.talker is not None:
            if self.talker.sm is not None and self.talker.sm.id is not None:
                self.old = self.talker
            self.received += self.talker.received
            open_ = [m for m in self.talker.in_flight if m is not None]
            self.waiting.extendleft(reversed(open_))
            self.talker.abort()
            self.talker = None

    async def talk(self, host: str, quiet: asyncio.Event, patience_s: float) -> bool:
        """Keeps the window full until `quiet`, then until all is acknowledged; false: no patience.

        Raises `StreamClosed` when the connection ends.
        """
        talker = self.talker
        assert talker is not None
        end = time.monotonic() + patience_s
        while not quiet.is_set() or self.waiting or any(talker.in_flight):
            if time.monotonic() > end:
                return False
            marks = self._next(self.window - len(talker.in_flight), quiet.is_set())
            talker.moved.clear()
            if marks:
                talker.say(marks, host, with_origin=self.with_origin)
            try:
                await asyncio.wait_for(talker.moved.wait(), NUDGE_S)
            except TimeoutError:
                talker.nudge()
            if talker.eof or talker.closed_stream:
                raise StreamClosed(f"{self.account.user}: the connection ended")
        return True

    def _next(self, room: int, is_quiet: bool) -> list[Mark]:
        if room < min(BATCH, self.window):
            return []
        marks: list[Mark] = []
        while len(marks) < min(room, BATCH):
            if self.waiting:
                marks.append(self.waiting.popleft())
            elif is_quiet:
                break
            else:
                peer = random.choice(self.peers)
                self.counters[peer] = self.counters.get(peer, 0) + 1
                marks.append(Mark(self.number, peer, self.counters[peer]))
        return marks


class Crowd:
    """All users of a run: user n writes to the few that follow, so that nobody answers."""

    def __init__(self, accounts: list[Account], *, window: int = 30, reach: int = 3) -> None:
        assert len(accounts) > 2 * reach, "somebody would be answered"
        self.ledger = Ledger()
        size = len(accounts)
        self.members = [
            Member(
                n, account, [(n + step) % size for step in range(1, reach + 1)], self.ledger, window
            )
            for n, account in enumerate(accounts)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._quiet = asyncio.Event()
        self._cut_s: float | None = None
        self.drops = 0

    def start(self, endpoint: Endpoint, *, cut_s: float | None = None) -> None:
        """Everybody logs in and talks; returns at once.

        With `cut_s` everybody loses his connection after so long on average and sends again, on a
        new session, what was not acknowledged.
        """
        self._quiet.clear()
        self._cut_s = cut_s
        doors = asyncio.Semaphore(LOGINS)
        self._tasks = [
            asyncio.create_task(self._live(member, endpoint, doors)) for member in self.members
        ]

    async def _live(self, member: Member, endpoint: Endpoint, doors: asyncio.Semaphore) -> None:
        while True:
            async with doors:
                await member.login(endpoint)
            is_cut = self._cut_s is not None and not self._quiet.is_set()
            patience_s = random.expovariate(1 / self._cut_s) if self._cut_s and is_cut else inf
            if await member.talk(endpoint.domain, self._quiet, patience_s):
                return
            self.drops += 1
            member.leave()

    async def crash(self) -> None:
        """Waits until every session has ended, once the server has been killed."""
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        for member, outcome in zip(self.members, outcomes, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, BROKEN):
                raise outcome
            member.leave()

    async def settle(self, timeout_s: float = 60.0) -> None:
        """Nobody writes anything new; waits until all is acknowledged. Sessions stay open."""
        self._quiet.set()
        done, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
        assert not pending, f"{self.ledger.open} messages were never acknowledged"

    async def read_half(self) -> None:
        """Every third user marks half of what each peer sent as read (XEP-0333 #displayed)."""
        for member in self.members[::3]:
            talker = member.talker
            assert talker is not None
            for other in self.members:
                number = other.counters.get(member.number, 0) // 2
                if member.number in other.peers and number:
                    mark = Mark(other.number, member.number, number)
                    seen = Element("displayed", ns.MARKERS, {"id": mark.id})
                    talker.send(message(other.account.jid, seen, type="chat"))
                    self.ledger.read_up_to[member.number, other.number] = number
            await talker.rest()

    async def close(self) -> None:
        """Closes every stream in order."""
        for member in self.members:
            if member.talker is not None:
                await member.talker.close()
            member.leave()

    @property
    def resumed(self) -> int:
        """Sessions that went on over another connection."""
        return sum(member.resumed for member in self.members)

    @property
    def received(self) -> int:
        """Messages that came to sessions, doubles included."""
        return sum(m.received + (m.talker.received if m.talker else 0) for m in self.members)
