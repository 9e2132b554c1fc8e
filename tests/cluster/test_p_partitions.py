# SPDX-License-Identifier: Apache-2.0
"""P1 to P5: nodes that are cut off, frozen, or half connected."""

from __future__ import annotations

import asyncio
import time

from cluster.support.counters import AGAIN, RESETS, handovers
from cluster.support.load import Person
from cluster.support.map import MapWatch
from cluster.support.network import Network
from cluster.support.node import Node
from cluster.support.site import Site
from cluster.support.trial import Trial, note, repetitions, seconds, under_load
from durability import wire_reader
from durability.ledger import Mark
from support import ns
from support.client import Client
from support.xml import E, message

CLOSED_S = 30.0
LEASE_S = 10.0
FROZEN_S = 12.0
ANSWERED_S = 20.0
HELD_S = 3.0
"""Longer than a lease."""


def isolate(site: Site, name: str) -> None:
    """Cuts a node from the others and from etcd; clients still reach it."""
    for other in site.nodes.values():
        if other.name != name:
            site.network.cut(site[name].place, other.place)
    for member in site.etcd.members:
        site.network.cut(site[name].place, member.place)


async def test_p1_a_node_cut_off_closes_its_streams_and_says_that_it_is_not_ready(
    site: Site, cuts: Network
) -> None:
    async with under_load(site, users=150) as trial:
        for number in range(repetitions(2)):
            # Another one each time: the users of the last one are not back on it.
            cut_off = site["bca"[number % 3]]
            await asyncio.sleep(1.0)
            there = [p for p in trial.load.people if _is_on(p, cut_off)]
            assert there, f"nobody is connected to {cut_off.name}"
            written = site.writes_so_far()
            isolate(site, cut_off.name)
            begun, cut_us = time.monotonic(), time.time_ns() // 1_000
            while any(_is_on(person, cut_off) for person in there):
                assert time.monotonic() - begun < CLOSED_S, "clients are still connected to it"
                await asyncio.sleep(0.2)
            note("a cut-off node's last client was cut off after", "s", time.monotonic() - begun)
            await asyncio.sleep(max(1.0, LEASE_S + 2.0 - (time.monotonic() - begun)))
            assert not await asyncio.to_thread(cut_off.is_ready), "P1: it says that it is ready"
            wrote = await asyncio.to_thread(cut_off.writes, written.get(cut_off.name, 0))
            after = [one for one in wrote if one.us > cut_us + LEASE_S * 1e6]
            assert not after, f"P1: it writes after its lease: {after[:3]}"
            await trial.load.all_in()
            cuts.heal()
            await asyncio.to_thread(site.heal)
    assert trial.load.drops


def _is_on(person: Person, node: Node) -> bool:
    """Whether a user has a session with that node, as far as he knows."""
    talker = person.talker
    return talker is not None and talker.endpoint.host == node.place.address and talker.is_in_use


async def test_p2_no_shard_has_two_owners_in_an_epoch_whatever_is_cut_or_killed(
    site: Site, cuts: Network
) -> None:
    async with MapWatch(site) as watch, under_load(site) as trial:
        for _ in range(repetitions(2)):
            isolate(site, "c")
            await asyncio.sleep(seconds("CUT", FROZEN_S))
            cuts.heal()
            await asyncio.to_thread(site.heal)
            site["a"].kill()
            await asyncio.sleep(3.0)
            await asyncio.to_thread(site.heal)
    assert len(watch.rounds) > 5
    assert watch.two_owners() == []
    assert watch.maps() == []
    print(f"P2: {len(watch.rounds)} looks; {len(trial.load.drops)} sessions dropped")


async def test_p3_after_healing_one_session_holds_a_full_jid_and_the_newer_one_wins(
    site: Site, cuts: Network
) -> None:
    accounts = await asyncio.to_thread(site.strangers, 9)
    friend_account = accounts.pop()
    for round_ in range(repetitions(2)):
        old = [await site.online(site["b"], a, f"phone{round_}", sm=True) for a in accounts]
        isolate(site, "b")
        await asyncio.to_thread(
            site.wait_settled, site["a"], site["c"], members=["a", "c"], timeout_s=30.0
        )
        new = [await site.online(site["a"], a, f"phone{round_}", sm=True) for a in accounts]
        cuts.heal()
        await asyncio.to_thread(site.heal)
        friend = await site.online(site["c"], friend_account, "desk")
        for at, (was, client) in enumerate(zip(old, new, strict=True)):
            friend.send(message(client.jid, "who is it?", type="chat", id=f"w{at}"))
            await client.expect("message", id=f"w{at}")
            assert not client.eof, "the newer session lost"
            await was.expect_end(timeout_s=CLOSED_S)
            assert not [e for e in was.inbox if e.id == f"w{at}"], "P3: two sessions got it"
        for client in [*new, friend]:
            await client.close()


async def test_p3_where_a_minority_alone_sees_etcd_both_parts_serve_and_the_newer_session_stays(
    site: Site, cuts: Network
) -> None:
    """Infrastructure §2.3: what a frozen view leaves; nothing that was acknowledged is lost."""
    for _ in range(repetitions(2)):
        await _serve_apart(site, cuts)


async def _serve_apart(site: Site, cuts: Network) -> None:
    accounts = await asyncio.to_thread(site.strangers, 6)
    old = [
        await site.online(site["ac"[n % 2]], a, "phone", sm=True) for n, a in enumerate(accounts)
    ]
    for name in ("a", "c"):
        cuts.cut(site[name].place, site["b"].place)
        for member in site.etcd.members:
            cuts.cut(site[name].place, member.place)
    await asyncio.to_thread(site.wait_settled, site["b"], members=["b"], timeout_s=40.0)
    acked: dict[str, list[str]] = {account.jid: [] for account in accounts}
    for account, client in zip(accounts, old, strict=True):
        if await _is_acknowledged(client, "majority", ANSWERED_S):
            acked[account.jid].append("majority")
    assert any(acked.values()), "the majority did not serve"
    new = [await site.online(site["b"], account, "phone", sm=True) for account in accounts]
    for account, client in zip(accounts, new, strict=True):
        assert await _is_acknowledged(client, "minority", ANSWERED_S)
        acked[account.jid].append("minority")
    # By now the minority has taken all of them up.
    late = [_is_acknowledged(client, "late", HELD_S) for client in old]
    assert not any(await asyncio.gather(*late)), "acknowledged where another home is"
    cuts.heal()
    await asyncio.to_thread(site.heal)
    for account, was, client in zip(accounts, old, new, strict=True):
        await was.expect_end(timeout_s=CLOSED_S)
        ends = [e.condition for e in was.inbox if e.tag == ("error", ns.STREAM)]
        assert ends == ["reset"], "its home was put out"
        assert not client.eof, "the newer session lost"
        assert await _is_acknowledged(client, "again", ANSWERED_S)
        expected = [*acked[account.jid], "again"]
        bodies = [row.body for row in await wire_reader.rows(client)]
        print(f"P3: the older ends with {ends}; acknowledged {expected}, in the archive {bodies}")
        assert [body for body in bodies if body in expected] == expected
        await client.close()


async def _is_acknowledged(client: Client, body: str, within_s: float) -> bool:
    """Whether a message to itself is, within so long, and not answered with an error."""
    assert client.sm is not None
    stanza_id = client.next_id()
    client.send(message(client.jid, body, type="chat", id=stanza_id))
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if await client.sm_request() == client.sm.sent:
            return not [e for e in client.inbox if e.id == stanza_id and e.type == "error"]
        await asyncio.sleep(0.1)
    return False


async def test_p4_a_cut_between_two_nodes_that_see_etcd_is_gone_round_over_the_third(
    site: Site, cuts: Network
) -> None:
    ends = [site["a"], site["b"]]
    async with under_load(site, users=150) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(1.0)
            offsets = [node.log_size for node in ends]
            resets, again = await _relayed(ends)
            began = time.monotonic()
            cuts.cut(*(node.place for node in ends))
            await asyncio.sleep(seconds("CUT", FROZEN_S))
            written = {mark for mark, at in trial.ledger.sent.items() if at >= began}
            # The cut lasts until all of it is done: nothing waits for the healing.
            await _until_done(trial, written)
            since = [n.log_since(at) for n, at in zip(ends, offsets, strict=True)]
            assert all("link opened over a third node" in log for log in since), since
            waits = sorted(
                trial.ledger.acknowledged[mark] - trial.ledger.sent[mark] for mark in written
            )
            print(
                f"P4: {len(written)} messages written in a cut of {time.monotonic() - began:.1f} s,"
                f" all acknowledged and seen in it, {sum(wait > 1.0 for wait in waits)} of them"
                f" after more than a second, the last after {waits[-1]:.1f} s"
            )
            note("the longest wait of a message in a cut between two nodes", "s", waits[-1])
            more_resets, more_again = await _relayed(ends)
            assert more_resets > resets, "no link broke"
            assert more_again > again, "nothing was sent again"
            cuts.heal()
            await asyncio.to_thread(site.heal)
            await _until_direct(ends)
    print(f"P4: {len(trial.load.errors)} errors, {len(trial.load.drops)} sessions dropped")
    assert not trial.load.errors
    assert not trial.load.drops


async def _relayed(nodes: list[Node]) -> tuple[float, float]:
    """How often links of these broke, and how much they have sent again."""
    resets = [await asyncio.to_thread(n.metric, RESETS) for n in nodes]
    again = [await asyncio.to_thread(n.metric, AGAIN, way="sent") for n in nodes]
    return sum(resets), sum(again)


async def _until_done(trial: Trial, written: set[Mark]) -> None:
    """Until all of these are acknowledged to who wrote them, and seen by whom they are for."""
    begun = time.monotonic()
    while True:
        seen = {Mark.of(sight.body) for sight in trial.load.sights}
        left = [mark for mark in written if mark not in trial.ledger.acknowledged]
        left += [mark for mark in written if mark not in seen]
        if not left:
            return
        waited = time.monotonic() - begun
        assert waited < CLOSED_S, f"P4: {len(left)} of {len(written)} wait for the end of the cut"
        await asyncio.sleep(0.2)


async def _until_direct(nodes: list[Node]) -> None:
    """Until no link of these goes over a third node."""
    begun = time.monotonic()
    while any([await asyncio.to_thread(n.metric, "antiphon_relay_detours") for n in nodes]):
        assert time.monotonic() - begun < CLOSED_S, "a link still goes over a third node"
        await asyncio.sleep(0.3)


async def test_p5_a_node_frozen_beyond_its_lease_owns_nothing_when_it_goes_on(site: Site) -> None:
    async with MapWatch(site) as watch, under_load(site, users=150, pollers=6) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(1.0)
            shards = (await asyncio.to_thread(site.statuses))["b"].served
            before = await asyncio.to_thread(handovers, [site["b"]])
            site["b"].freeze()
            await asyncio.sleep(seconds("FREEZE", FROZEN_S))
            site["b"].thaw()
            await asyncio.to_thread(site.heal)
            await trial.load.all_in()
            moved = (await asyncio.to_thread(handovers, [site["b"]])).since(before)
            assert (moved.dropped, moved.released) == (shards, 0), f"of {shards}: {moved}"
    assert watch.two_owners() == []
    assert trial.load.drops, "the frozen node kept its sessions: it was not frozen long enough"


async def test_p5_a_frozen_etcd_ends_no_session(site: Site) -> None:
    async with MapWatch(site) as watch, under_load(site, users=150) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(1.0)
            sizes = {node.name: node.log_size for node in site.up}
            site.etcd.pause()
            await asyncio.sleep(seconds("FREEZE", FROZEN_S))
            for node in site.up:
                said = node.log_since(sizes[node.name])
                assert "bring most of its members back" in said, f"{node.name} gives no advice"
            site.etcd.resume()
            await asyncio.sleep(4.0)
            await asyncio.to_thread(site.wait_settled)
    assert watch.two_owners() == []
    assert not trial.load.drops, f"sessions ended: {trial.load.drops[:3]}"
    assert not trial.load.errors
    assert not trial.missed


async def test_writes_in_the_queue_of_a_frozen_node_land_dead(site: Site) -> None:
    """Architecture §4, Fencing: late writes of a former owner never reach a reader."""
    ring = site.store
    async with under_load(site, users=90, per_second=300, pollers=9) as trial:
        for _ in range(repetitions(2)):
            await asyncio.sleep(1.0)
            ring.pause()  # so that what is written now waits in the nodes
            await asyncio.sleep(1.0)
            waits = await asyncio.to_thread(site["b"].metric, "antiphon_unsaved_bytes")
            assert waits > 0, "nothing waits in b for Cassandra"
            site["b"].freeze()
            ring.resume()
            await asyncio.to_thread(
                site.wait_settled, site["a"], site["c"], members=["a", "c"], timeout_s=40.0
            )
            await asyncio.sleep(1.0)
            site["b"].thaw()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(site.heal)
            await trial.load.all_in()


async def test_a_client_on_a_node_that_is_cut_off_is_told_why(site: Site, cuts: Network) -> None:
    (account,) = await asyncio.to_thread(site.strangers, 1)
    client: Client = await site.online(site["b"], account, "phone")
    isolate(site, "b")
    client.send(E("iq", ns.CLIENT, E("ping", ns.PING), type="get", id="p", to=account.jid))
    await client.expect_end(timeout_s=CLOSED_S)
    errors = [e.condition for e in client.inbox if e.tag == ("error", ns.STREAM)]
    assert errors, "the connection was closed without a stream error"
    cuts.heal()
