# SPDX-License-Identifier: Apache-2.0
"""E1, E2, E3: without etcd everything goes on as it is; joins, leaves and fail-over wait."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import repetitions, seconds, under_load
from durability import wire_reader
from support.client import Client
from support.xml import message

OUTAGE_S = 25.0
"""More than two leases; `make chaos` takes a minute."""


async def test_e1_e3_no_stream_ends_while_etcd_is_away_and_none_when_it_is_back(
    site: Site,
) -> None:
    owner, other = await asyncio.to_thread(site.strangers, 2)
    outage_s = seconds("ETCD", OUTAGE_S)
    before = await asyncio.to_thread(site.wait_still)
    async with under_load(site) as trial:
        await asyncio.sleep(1.0)
        site.etcd.kill()
        begun = time.monotonic()
        logins = 0
        while time.monotonic() - begun < outage_s:
            # Logins and archives, through each node in turn.
            node = list(site.nodes.values())[logins % 3]
            client = await site.online(node, owner, f"r{logins}", sm=True)
            peer = await site.online(site["c"], other, "peer")
            client.send(message(peer.jid, f"number {logins}", type="chat", id=f"e{logins}"))
            await peer.expect("message", id=f"e{logins}")
            rows = await wire_reader.rows(client)
            assert len(rows) == logins + 1
            for one in (client, peer):
                await one.close()
            logins += 1
            await asyncio.sleep(0.5)
        site.etcd.start()
        await asyncio.sleep(5.0)
        after = await asyncio.to_thread(site.wait_still)
    print(f"{logins} logins without etcd; epoch {before} before, {after} after")
    assert not trial.load.drops, f"E1: sessions ended: {trial.load.drops[:3]}"
    assert not trial.load.errors, f"E1: errors: {trial.load.errors[:3]}"
    assert not trial.missed
    assert after - before <= 1, f"E3: the view flaps: epoch {before}, then {after}"


async def test_e2_a_node_that_dies_meanwhile_takes_only_its_own_users_along(site: Site) -> None:
    for _ in range(repetitions(1)):
        people = await asyncio.to_thread(site.strangers, 30)
        clients = [await site.online(site["ac"[n % 2]], a, "phone") for n, a in enumerate(people)]
        site.etcd.kill()
        await asyncio.sleep(2.0)
        site["b"].kill()
        answered, waited, silent = await _probe(clients)
        print(f"E2: {answered} answered, {waited} told to wait, {silent} got no answer")
        assert answered > len(clients) // 3, "users of other homes are touched"
        assert not [c for c in clients if c.eof], "a session on a living node ended"
        site.etcd.start()
        await asyncio.to_thread(site.wait_settled, site["a"], site["c"])
        answered, waited, silent = await _probe(clients)
        assert (waited, silent) == (0, 0), "the dead node's homes are not taken over"
        for client in clients:
            await client.close()
        await asyncio.to_thread(site.heal)


async def _probe(clients: list[Client], patience_s: float = 12.0) -> tuple[int, int, int]:
    """Each writes to himself: how many got it, got an error of type wait, got nothing."""

    async def one(client: Client) -> str:
        id_ = client.next_id()
        client.send(message(client.jid, "still there?", type="chat", id=id_))
        try:
            answer = await client.expect("message", id=id_, timeout_s=patience_s)
        except AssertionError:
            return "silent"
        if answer.type != "error":
            return "answered"
        assert answer.at("error").get("type") == "wait", f"not wait: {answer}"
        return "wait"

    found = await asyncio.gather(*(one(client) for client in clients))
    return found.count("answered"), found.count("wait"), found.count("silent")
