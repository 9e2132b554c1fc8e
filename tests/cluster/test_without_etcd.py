# SPDX-License-Identifier: Apache-2.0
"""Nodes that end or start while etcd is away."""

from __future__ import annotations

import asyncio
import time

from cluster.support.homes import homes
from cluster.support.site import Site
from cluster.support.trial import note
from durability import wire_reader
from support.client import Client
from support.xml import message

END_S = 30 + 10 + 5.0
"""What a node may take to end: it waits as long as it may for somebody who takes its shards
(`cluster.drain_seconds`), then for its sessions (`node.drain_seconds`). A pod's grace period is longer."""
WAITS = "handing over waits for etcd to answer"


async def test_a_node_told_to_end_while_etcd_is_away_ends_in_time_and_keeps_what_it_took(
    site: Site,
) -> None:
    people = await asyncio.to_thread(site.strangers, 24)
    found = await homes(site, people)
    mine = [one for one in people if found[one.jid].node == "b"]
    others = [one for one in people if found[one.jid].node != "b"]
    staying = [await site.online(site["a"], one, "phone") for one in others]
    leaving = [await site.online(site["b"], one, "desk") for one in mine]
    site.etcd.kill()
    try:
        for n, client in enumerate(leaving):
            client.send(message(mine[n - 1].jid, f"kept {n}", type="chat", id=f"k{n}"))
        for n, client in enumerate(leaving):
            await leaving[n - 1].expect("message", id=f"k{n}")
            await client.sync()
        at = site["b"].log_size
        begun = time.monotonic()
        site["b"].terminate()
        for client in leaving:
            await client.expect_stream_error("system-shutdown", timeout_s=END_S)
        assert await asyncio.to_thread(site["b"].wait_end, END_S) == 0
        note("a node told to end while etcd is away ended after", "s", time.monotonic() - begun)
        assert WAITS in site["b"].log_since(at)
        for client in staying:
            await _writes_to_himself(client)
    finally:
        site.etcd.start()
    await asyncio.to_thread(site.wait_settled, site["a"], site["c"])
    for n, one in enumerate(mine):
        client = await site.online(site["c"], one, "desk")
        bodies = [row.body for row in await wire_reader.rows(client)]
        sent, got = f"kept {n}", f"kept {(n + 1) % len(mine)}"
        assert sorted(b for b in bodies if b.startswith("kept")) == sorted({sent, got})
        await client.close()
    for client in staying:
        await _writes_to_himself(client)
        await client.close()


async def test_a_node_that_starts_while_etcd_is_away_says_so_and_joins_when_it_is_back(
    site: Site,
) -> None:
    await asyncio.to_thread(site["b"].stop)
    await asyncio.to_thread(site.wait_settled, site["a"], site["c"])
    site.etcd.kill()
    try:
        at = site["b"].log_size
        site["b"].spawn()
        while "etcd" not in site["b"].log_since(at):
            await asyncio.sleep(0.2)
        assert not await asyncio.to_thread(site["b"].is_ready)
        assert site["b"].is_up
    finally:
        site.etcd.start()
    await asyncio.to_thread(site["b"].wait_ready)
    await asyncio.to_thread(site.wait_settled)


async def _writes_to_himself(client: Client) -> None:
    id_ = client.next_id()
    client.send(message(client.jid, "still here", type="chat", id=id_))
    answer = await client.expect("message", id=id_)
    assert answer.type == "chat", f"an error: {answer}"
