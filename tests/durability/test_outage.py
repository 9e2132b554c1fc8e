# SPDX-License-Identifier: Apache-2.0
"""Cassandra frozen, or one replica of three gone: nothing is lost, and chats go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from durability import outage
from durability.crowd import Crowd
from durability.node import Mortal
from support.cassandra import Cassandra
from support.keyspaces import Keyspaces

PEOPLE = 12
FROZEN_S = 6.0


@contextmanager
def node_on(ring: Cassandra) -> Iterator[Mortal]:
    """A node that keeps everything there."""
    keyspaces = Keyspaces(ring.contact_points)
    node = Mortal.make()
    node.contact_points, node.keyspace = keyspaces.contact_points, keyspaces.new()
    try:
        node.start()
        yield node
    finally:
        node.remove()
        ring.heal()
        keyspaces.drop()


async def test_while_cassandra_is_frozen_chats_go_on_and_acknowledgements_wait(
    breakable_cassandra: Cassandra,
) -> None:
    with node_on(breakable_cassandra) as node:
        accounts = node.people(PEOPLE + 2)
        crowd = Crowd(accounts[:PEOPLE], window=400)
        pair = (accounts[PEOPLE], accounts[PEOPLE + 1])
        found = await outage.pause(node, breakable_cassandra, crowd, pair, FROZEN_S)
    print(found)
    assert found.delivered_s, "nobody wrote while it was frozen"
    assert max(found.delivered_s) < 1.0
    assert found.acknowledged == 0
    assert found.grown_bytes < 64 * 1024 * 1024
    assert not found.findings, str(found.findings)


async def test_with_one_replica_of_three_slow_messages_are_kept_and_acknowledged(
    cassandra_ring: Cassandra,
) -> None:
    with node_on(cassandra_ring) as node:
        crowd = Crowd(node.people(PEOPLE))
        findings = await outage.slow_one(node, cassandra_ring, crowd, 6.0)
    assert not findings, str(findings)
    assert len(crowd.ledger.acknowledged) > 200


async def test_with_one_replica_of_three_gone_messages_are_kept_and_acknowledged(
    cassandra_ring: Cassandra,
) -> None:
    with node_on(cassandra_ring) as node:
        crowd = Crowd(node.people(PEOPLE))
        findings = await outage.lose_one(node, cassandra_ring, crowd, 5.0)
    assert not findings, str(findings)
    assert len(crowd.ledger.acknowledged) > 200
