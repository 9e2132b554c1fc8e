# SPDX-License-Identifier: Apache-2.0
"""A node whose Cassandra dies or freezes: people online notice nothing, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

import pytest

from support.antiphon import Antiphon
from support.cassandra import Cassandra
from support.client import Client
from support.keyspaces import Keyspaces
from support.play import Clients, Servers
from support.server import Server, Settings
from support.xml import message

AWAY_S = 8.0
BACK_S = 40.0
"""The drivers try again every few seconds."""


@pytest.fixture
def server(servers: Servers, breakable_cassandra: Cassandra) -> Iterator[Server]:
    """A node on a Cassandra that the test may break."""
    keyspaces = Keyspaces(breakable_cassandra.contact_points)
    made = servers.build(Settings())
    assert isinstance(made, Antiphon)
    made.contact_points, made.keyspace = keyspaces.contact_points, keyspaces.new()
    made.start()
    yield made
    breakable_cassandra.heal()
    made.stop()
    keyspaces.drop()


def break_it(ring: Cassandra, how: str) -> None:
    """Kills or freezes the only node."""
    (ring.kill if how == "kill" else ring.pause)()


def mend_it(ring: Cassandra, how: str) -> None:
    """Undoes it."""
    (ring.restart if how == "kill" else ring.resume)()


@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.slow
async def test_chat_goes_on_and_what_must_be_kept_waits_for_the_store(
    how: str,
    server: Server,
    clients: Clients,
    couple: tuple[Client, Client],
    breakable_cassandra: Cassandra,
) -> None:
    romeo, juliet = couple
    absent = server.account()
    await romeo.sm_enable()
    romeo.send(message(absent.jid, "before", type="chat"))
    deadline = monotonic() + 10
    while await romeo.sm_request() < 1:
        assert monotonic() < deadline
        await asyncio.sleep(0.05)

    break_it(breakable_cassandra, how)
    until = monotonic() + AWAY_S
    romeo.send(message(absent.jid, "during", type="chat"))
    count = 0
    while monotonic() < until:
        juliet.send(message(romeo.jid, f"line {count}", type="chat"))
        got = await romeo.expect("message", timeout_s=1)
        assert got.body == f"line {count}"
        count += 1
        await asyncio.sleep(0.1)
    # Not kept, so not acknowledged.
    assert await romeo.sm_request() == 1

    await asyncio.to_thread(mend_it, breakable_cassandra, how)
    deadline = monotonic() + BACK_S
    while await romeo.sm_request() < 2:
        assert monotonic() < deadline, server.log_text()
        await asyncio.sleep(0.2)
    late = await clients.bound(absent)
    await late.online()
    bodies = [(await late.expect("message")).body for _ in range(2)]
    assert bodies == ["before", "during"]
    log = server.log_text()
    assert log.count("cassandra does not answer") == 1
    assert log.count("cassandra answers again") == 1
