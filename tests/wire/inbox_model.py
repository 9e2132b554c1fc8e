# SPDX-License-Identifier: Apache-2.0
"""The inbox beside a model of it: random actions of both sides, the counts compared after each."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from support.archive import chat, inbox, marker, set_entry
from support.client import Client, fence
from support.play import Clients
from support.server import Server

pytestmark = pytest.mark.ours("a protocol of few servers")

T = TypeVar("T")

PEERS = 3


@dataclass
class Expected:
    """One conversation as it should be: what came at which place, how far it is read, its box."""

    count: int = 0
    received: list[tuple[int, str]] = field(default_factory=list)
    read: int = 0
    unread: int = 0
    last: str = ""
    box: str = "inbox"

    def receives(self, text: str) -> None:
        """A message comes."""
        self.count += 1
        self.received.append((self.count, text))
        self.unread += 1
        self.last = text
        self.comes_back()

    def sends(self, text: str) -> None:
        """The owner writes."""
        self.count += 1
        self.last = text
        self.read_all()
        self.comes_back()

    def read_upto(self, at: int) -> None:
        """A marker names what came at this place; what was read before stays so. The last message
        read, named once more, ends an "unread" that the owner set."""
        place, _ = self.received[at]
        if place > self.read or (place == self.read and self.unread):
            self.read = place
            self.unread = len(self.received) - at - 1

    def read_all(self) -> None:
        """Everything is read."""
        self.read, self.unread = self.count, 0

    def comes_back(self) -> None:
        """A message moves it from the archive into the inbox."""
        if self.box == "archive":
            self.box = "inbox"


class Play:
    """Juliet and her peers on one server."""

    def __init__(self, server: Server) -> None:
        self.clients = Clients(server)
        self.peers: list[Client] = []

    async def begin(self) -> None:
        """Everybody logs in."""
        self.juliet = await self.clients.online()
        for _ in range(PEERS):
            self.peers.append(await self.clients.online())


def machine(server: Server) -> type[RuleBasedStateMachine]:
    """The state machine for this server."""
    peers = st.integers(0, PEERS - 1)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.play = Play(server)
            self.model: dict[int, Expected] = {}
            self.numbers = 0

        def do(self, work: Coroutine[object, object, T]) -> T:
            return self.runner.run(work)

        def teardown(self) -> None:
            self.do(self.play.clients.close())
            self.runner.close()

        @initialize()
        def begin(self) -> None:
            self.do(self.play.begin())

        def text(self) -> str:
            self.numbers += 1
            return f"t{self.numbers}"

        @rule(peer=peers, count=st.integers(1, 3))
        def receive(self, peer: int, count: int) -> None:
            expected = self.model.setdefault(peer, Expected())
            texts = [self.text() for _ in range(count)]
            sender = self.play.peers[peer]
            for text in texts:
                sender.send(chat(self.play.juliet.bare, text, id=text))
            self.do(fence(sender, self.play.juliet))
            for text in texts:
                expected.receives(text)

        @rule(peer=peers)
        def send(self, peer: int) -> None:
            expected = self.model.setdefault(peer, Expected())
            text = self.text()
            juliet, to = self.play.juliet, self.play.peers[peer]
            juliet.send(chat(to.jid, text, id=text))
            self.do(fence(juliet, to))
            expected.sends(text)

        @rule(peer=peers, at=st.integers(0, 20))
        def mark(self, peer: int, at: int) -> None:
            expected = self.model.get(peer)
            if expected is None or at >= len(expected.received):
                return
            juliet, to = self.play.juliet, self.play.peers[peer]
            juliet.send(marker(to.jid, expected.received[at][1]))
            self.do(fence(juliet, to))
            expected.read_upto(at)

        @rule(peer=peers)
        def read(self, peer: int) -> None:
            expected = self.model.get(peer)
            if expected is None:
                return
            self.set(peer, read="true")
            expected.read_all()

        @rule(peer=peers)
        def unread(self, peer: int) -> None:
            expected = self.model.get(peer)
            if expected is None:
                return
            self.set(peer, read="false")
            expected.unread = max(1, expected.unread)

        @rule(peer=peers, box=st.sampled_from(["inbox", "archive", "bin"]))
        def move(self, peer: int, box: str) -> None:
            expected = self.model.get(peer)
            if expected is None:
                return
            self.set(peer, box=box)
            expected.box = box

        def set(self, peer: int, **properties: object) -> None:
            juliet = self.play.juliet
            reply = self.do(set_entry(juliet, self.play.peers[peer].bare, **properties))
            assert reply.type == "result", reply

        @invariant()
        def the_inbox_is_that_of_the_model(self) -> None:
            if not self.play.peers:
                return
            juliet = self.play.juliet
            found = self.do(inbox(juliet, box="all"))
            juliet.drain()
            numbers = {client.bare: n for n, client in enumerate(self.play.peers)}
            seen = {numbers[e.peer(juliet.bare)]: (e.unread, e.body, e.box) for e in found.entries}
            wanted = {n: (e.unread, e.last, e.box) for n, e in self.model.items()}
            assert seen == wanted
            totals = [found.number(n) for n in ("count", "unread-messages", "active-conversations")]
            counts = [e.unread for e in self.model.values()]
            assert totals == [len(counts), sum(counts), sum(1 for c in counts if c)]

    return Machine


def test_counters_follow_the_model(server: Server) -> None:
    run_state_machine_as_test(
        machine(server),
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
