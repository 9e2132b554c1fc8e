# SPDX-License-Identifier: Apache-2.0
"""Zones (`node.zone`): what is known of a shard by its owner alone is told to a node of another zone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.support.etcd import OLD as OLD_ETCD
from cluster.support.homes import homes
from cluster.support.network import Network
from cluster.support.placement import placement
from cluster.support.site import Site
from cluster.support.trial import note
from cluster.support.watch import befriend, seen_of, told
from support.cassandra import Cassandra
from support.client import LIVE, Client
from support.xml import message

ZONES = {"a": "east", "b": "east", "c": "west"}
SUBJECTS = 5
"""Of each node of the zone that dies."""
LEASE_S = 10.0
ALONE_S = 4 * LEASE_S
"""Of three nodes one alone is not most of them: it waits for two leases."""


@pytest.fixture
def zoned(network: Network, cluster_cassandra: Cassandra) -> Iterator[Site]:
    """A cluster of its own, of two zones, on the oldest etcd."""
    LIVE.clear()
    cluster_cassandra.resume()
    site = Site(network, cluster_cassandra, tells_writes=True, etcd=OLD_ETCD)
    try:
        for name, zone in ZONES.items():
            site[name].extra["node"] = {"zone": zone}
        site.start()
        yield site
    finally:
        site.close()


async def test_every_shard_has_its_stand_in_in_another_zone_and_a_zone_that_dies_is_taken_over_from(
    zoned: Site,
) -> None:
    await asyncio.to_thread(zoned.wait_still)
    _asserts_placed(zoned)
    listed = await asyncio.to_thread(zoned["c"].command, "cluster", "nodes")
    for name, zone in ZONES.items():
        rows = [row.split() for row in listed.stdout.splitlines()]
        assert any(row[:1] == [name] and zone in row for row in rows), listed.stdout
    witness, subjects = await _people(zoned)
    for client in [witness, *subjects]:
        await client.sm_settle()
    begun = time.monotonic()
    for name in ("a", "b"):
        zoned[name].kill()
    for subject in subjects:
        left = ALONE_S - (time.monotonic() - begun)
        await told(witness, subject.jid, "unavailable", max(1.0, left))
    note("contacts told of the sessions of a lost zone after", "s", time.monotonic() - begun)
    await asyncio.to_thread(zoned.wait_settled, zoned["c"], members=["c"], timeout_s=ALONE_S)
    note("a zone serves the shards of a lost one after", "s", time.monotonic() - begun)
    await asyncio.sleep(2.0)
    for subject in subjects:
        assert seen_of(witness, subject.jid) == ["unavailable"]
    await _writes_and_is_answered(zoned, subjects)
    for name in ("a", "b"):
        await asyncio.to_thread(zoned[name].start)
    await asyncio.to_thread(zoned.wait_settled)
    await asyncio.to_thread(zoned.wait_still)
    _asserts_placed(zoned)
    await witness.close()


async def _writes_and_is_answered(site: Site, lost: list[Client]) -> None:
    """Asserts that users of the lost zone are served by the other."""
    account = lost[0].account
    assert account is not None
    client = await site.online(site["c"], account, "phone")
    client.send(message(client.jid, "here?", type="chat", id="here"))
    await client.expect("message", id="here")
    await client.close()


def _asserts_placed(site: Site) -> None:
    """Asserts that every shard has an owner and a stand-in of the other zone, and fair shares."""
    placed = placement(site.etcd)
    wrong = [
        n for n, one in enumerate(placed) if not one.shadow or one.owner_zone == one.shadow_zone
    ]
    assert not wrong, f"{len(wrong)} shards are kept in one zone: {placed[wrong[0]]}"
    assert all(one.owner_zone == ZONES[one.owner] for one in placed)
    shares = Counter(one.owner for one in placed)
    # Zones do not change who owns how much (rust/cluster/src/planner.rs).
    assert max(shares.values()) - min(shares.values()) < len(placed) // 20, shares


async def _people(site: Site) -> tuple[Client, list[Client]]:
    """A witness who lives at c, and contacts of his whose homes and sockets are in the other zone."""
    people = await asyncio.to_thread(site.strangers, 15 * SUBJECTS)
    found = await homes(site, people)
    by_home = {name: [p for p in people if found[p.jid].node == name] for name in ZONES}
    witness = await site.online(site["c"], by_home["c"][0], "witness", sm=True)
    subjects = [
        await site.online(site[name], person, "phone", sm=True)
        for name in ("a", "b")
        for person in by_home[name][:SUBJECTS]
    ]
    for subject in subjects:
        await befriend(witness, subject)
    witness.drain()
    return witness, subjects
