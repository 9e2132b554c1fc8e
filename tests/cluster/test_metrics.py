# SPDX-License-Identifier: Apache-2.0
"""What `/metrics` of real nodes says of their cluster."""

from __future__ import annotations

import asyncio

from cluster.support.counters import FRESH_S
from cluster.support.homes import homes
from cluster.support.node import Node
from cluster.support.site import Site
from support.xml import message

MESSAGES = 50
SHARDS = 4096
LEASE_S = 9.0


async def _read(node: Node, name: str, **labels: str) -> float:
    return await asyncio.to_thread(node.metric, name, **labels)


async def test_every_node_tells_of_its_membership_and_its_shards(site: Site) -> None:
    await asyncio.to_thread(site.wait_still)
    await asyncio.sleep(FRESH_S)
    served = 0.0
    epochs = set()
    for node in site.up:
        assert await _read(node, "antiphon_cluster_in") == 1
        assert await _read(node, "antiphon_cluster_members") == 3
        assert 0 < await _read(node, "antiphon_cluster_lease_left_seconds") <= LEASE_S
        assert await _read(node, "antiphon_cluster_frozen") == 0
        epochs.add(await _read(node, "antiphon_cluster_map_epoch"))
        owned = {
            owner.name: await _read(node, "antiphon_cluster_shards_owned", owner=owner.name)
            for owner in site.up
        }
        assert sum(owned.values()) == SHARDS
        assert await _read(node, "antiphon_cluster_shards", state="served") == owned[node.name]
        assert await _read(node, "antiphon_cluster_shards", state="coming") == 0
        served += owned[node.name]
        for peer in site.up:
            if peer is not node:
                assert await _read(node, "antiphon_relay_up", peer=peer.name, class_="stanza") == 1
    assert served == SHARDS
    assert len(epochs) == 1
    assert (await asyncio.to_thread(site.statuses))["a"].epoch in epochs


async def test_the_links_count_batches_stanzas_and_bytes_as_both_ends_see_them(site: Site) -> None:
    people = await asyncio.to_thread(site.strangers, 16)
    found = await homes(site, people)
    writer = next(one for one in people if found[one.jid].node == "a")
    reader = next(one for one in people if found[one.jid].node == "b")
    await asyncio.sleep(FRESH_S)
    ends = ((site["a"], "b", "sent"), (site["b"], "a", "received"))
    counted = [f"antiphon_relay_{what}_total" for what in ("frames", "stanzas", "bytes")]

    async def read() -> list[list[float]]:
        await asyncio.sleep(FRESH_S)
        return [
            [await _read(node, name, peer=peer, class_="stanza", way=way) for name in counted]
            for node, peer, way in ends
        ]

    phone = await site.online(site["a"], writer, "phone")
    desk = await site.online(site["b"], reader, "desk")
    before = await read()
    for n in range(MESSAGES):
        phone.send(message(desk.jid, "x" * 100, type="chat", id=f"m{n}"))
    for n in range(MESSAGES):
        await desk.expect("message", id=f"m{n}")
    after = await read()
    assert await _read(site["a"], "antiphon_relay_pending", peer="b", class_="stanza") == 0
    for client in (phone, desk):
        await client.close()
    grown = [
        [new - old for new, old in zip(*two, strict=True)]
        for two in zip(after, before, strict=True)
    ]
    for frames, stanzas, size in grown:
        assert stanzas >= MESSAGES
        assert 1 <= frames <= stanzas
        assert size > MESSAGES * 100
