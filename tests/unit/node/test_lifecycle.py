# SPDX-License-Identifier: Apache-2.0
"""Signals of a node in the foreground."""

import asyncio
import os
import signal
from typing import cast

import pytest

from antiphon.config.schema import Config
from antiphon.node.app import Node, NodeError
from antiphon.node.lifecycle import serve


class Recorded:
    """A node that only notes what is asked of it."""

    def __init__(self, *, fails: bool = False) -> None:
        self.stop_requested = asyncio.Event()
        self.config = Config()
        self.said: list[str] = []
        self.finish = asyncio.Event()
        self.finish.set()
        self._fails = fails

    async def start(self) -> None:
        if self._fails:
            raise NodeError("another program has this port")
        self.said.append("start")

    async def reload(self) -> bool:
        self.said.append("reload")
        return True

    async def stop(self, deadline_s: float) -> None:
        await self.finish.wait()
        self.said.append(f"stop {deadline_s}")


def as_node(recorded: Recorded) -> Node:
    return cast("Node", recorded)


def send(*signals: signal.Signals) -> None:
    for one in signals:
        os.kill(os.getpid(), one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_stops(number: signal.Signals) -> None:
    node = Recorded()
    assert await serve(as_node(node), lambda _node: send(number)) == 0
    assert node.said == ["start", "stop 10"]


async def test_a_node_that_is_stopped_while_it_starts_is_never_ready() -> None:
    node = Recorded()
    node.stop_requested.set()
    assert await serve(as_node(node), lambda _node: node.said.append("ready")) == 0
    assert node.said == ["start", "stop 10"]


async def test_sighup_reloads_and_the_node_goes_on() -> None:
    node = Recorded()

    def ready(_node: Node) -> None:
        send(signal.SIGHUP)
        asyncio.get_running_loop().call_later(0.05, send, signal.SIGTERM)

    await serve(as_node(node), ready)
    assert node.said == ["start", "reload", "stop 10"]


async def test_a_second_signal_ends_the_process_at_once() -> None:
    node = Recorded()
    node.finish.clear()
    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        node.finish.set()

    def ready(_node: Node) -> None:
        send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(0.05, send, signal.SIGTERM)

    await serve(as_node(node), ready, leave)
    assert left == [1]


async def test_a_node_that_cannot_start_says_why_and_the_signals_are_given_back() -> None:
    with pytest.raises(NodeError, match="another program has this port"):
        await serve(as_node(Recorded(fails=True)), lambda _node: None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
