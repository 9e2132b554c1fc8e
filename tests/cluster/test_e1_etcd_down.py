# SPDX-License-Identifier: Apache-2.0
"""E1, E2, E3: without etcd everything goes on as it is; joins, leaves and fail-over wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from cluster.support.node import Node
from cluster.support.site import Site
from cluster.support.trial import note, repetitions, seconds, under_load
from durability import wire_reader
from support import ns
from support.client import Client
from support.endpoint import Account
from support.xml import E, message

OUTAGE_S = 25.0
"""More than two leases; `make chaos` takes a minute."""
ANSWER_S = 3.0
"""How soon anybody gets an answer, be it that he has to wait."""


async def test_e1_e3_no_stream_ends_while_etcd_is_away_and_none_when_it_is_back(
    site: Site,
) -> None:
    owner, other = await asyncio.to_thread(site.strangers, 2)
    outage_s = seconds("ETCD", OUTAGE_S)
    after = await asyncio.to_thread(site.wait_still)
    planner = (await asyncio.to_thread(site.statuses))["a"].leader
    assert planner
    logins = 0
    async with under_load(site) as trial:
        for _ in range(repetitions(1)):
            await asyncio.sleep(1.0)
            sizes = {node.name: node.log_size for node in site.up}
            site.etcd.kill()
            begun = time.monotonic()
            while time.monotonic() - begun < outage_s:
                await _writes_and_reads(site, owner, other, logins)
                logins += 1
                await asyncio.sleep(0.5)
            for node in site.up:
                said = node.log_since(sizes[node.name])
                assert "bring most of its members back" in said, f"{node.name} gives no advice"
            site.etcd.start()
            await asyncio.sleep(5.0)
            before, after = after, await asyncio.to_thread(site.wait_still)
            assert after - before <= 1, f"E3: the view flaps: epoch {before}, then {after}"
            assert (await asyncio.to_thread(site.statuses))["a"].leader == planner, (
                "E1: another planner"
            )
    print(f"{logins} logins without etcd; epoch {after} at the end")
    assert not trial.load.drops, f"E1: sessions ended: {trial.load.drops[:3]}"
    assert not trial.load.errors, f"E1: errors: {trial.load.errors[:3]}"
    assert not trial.missed


async def _writes_and_reads(site: Site, owner: Account, other: Account, number: int) -> None:
    """Logins, a message and an archive, through each node in turn; so many were kept before."""
    node = list(site.nodes.values())[number % 3]
    client = await site.online(node, owner, f"r{number}", sm=True)
    peer = await site.online(site["c"], other, "peer")
    client.send(message(peer.jid, f"number {number}", type="chat", id=f"e{number}"))
    await peer.expect("message", id=f"e{number}")
    rows = await wire_reader.rows(client)
    assert len(rows) == number + 1
    for one in (client, peer):
        await one.close()


async def test_e2_a_node_that_dies_meanwhile_takes_only_its_own_users_along(site: Site) -> None:
    for _ in range(repetitions(1)):
        people = await asyncio.to_thread(site.strangers, 30)
        clients = [await site.online(site["ac"[n % 2]], a, "phone") for n, a in enumerate(people)]
        logs = [(node, node.log_size) for node in (site["a"], site["c"])]
        site.etcd.kill()
        await asyncio.sleep(2.0)
        site["b"].kill()
        # Whether etcd is gone for good is not known yet: what is for b waits.
        early = [client.next_id() for client in clients]
        for client, id_ in zip(clients, early, strict=True):
            client.send(message(client.jid, "still there?", type="chat", id=id_))
        frozen_s = await _cut_off(logs)
        begun = time.monotonic()
        answers = await _probe(clients)
        answered, waited = answers.count("answered"), answers.count("wait")
        note("without etcd, users of a dead node were told to wait after", "s", *_took(begun))
        print(f"E2: {answered} answered, {waited} told to wait; cut off after {frozen_s:.1f} s")
        assert answered + waited == len(clients), "E2: some got no answer"
        assert answered > len(clients) // 3, "users of other homes are touched"
        assert waited, "nobody lived on the dead node"
        for person, answer in zip(people, answers, strict=True):
            await _login(site["a"], person, is_refused=answer == "wait")
        assert not [c for c in clients if c.eof], "a session on a living node ended"
        site.etcd.start()
        await asyncio.to_thread(site.wait_settled, site["a"], site["c"])
        for client, id_ in zip(clients, early, strict=True):
            await client.expect("message", id=id_)
        assert await _probe(clients) == ["answered"] * len(clients), "homes are not taken over"
        for client in clients:
            await client.close()
        await asyncio.to_thread(site.heal)


def _took(begun: float) -> tuple[float]:
    return (time.monotonic() - begun,)


async def _cut_off(logs: Sequence[tuple[Node, int]], timeout_s: float = 20.0) -> float:
    """Waits until nodes say, behind these places of their logs, that nobody can take the place of
    one; how long that took, in seconds."""
    begun = time.monotonic()
    while not all("nodes cut off" in node.log_since(at) for node, at in logs):
        assert time.monotonic() - begun < timeout_s, "nobody says that a node is cut off"
        await asyncio.sleep(0.2)
    return time.monotonic() - begun


async def _login(node: Node, account: Account, *, is_refused: bool) -> None:
    """A login, which must succeed or be told to wait, and never hang."""
    client = Client(node.door, account)
    await client.negotiate()
    await client.authenticate()
    id_ = client.next_id()
    client.send(E("iq", ns.CLIENT, E("bind", ns.BIND), type="set", id=id_))
    answer = await client.expect("iq", id=id_, timeout_s=ANSWER_S)
    if is_refused:
        assert answer.type == "error", f"bound: {answer}"
        assert answer.at("error").get("type") == "wait", f"not wait: {answer}"
    else:
        assert answer.type == "result", f"not bound: {answer}"
    await client.close()


async def _probe(clients: list[Client]) -> list[str]:
    """Each writes to himself: who got it, got an error of type wait, got nothing."""

    async def one(client: Client) -> str:
        id_ = client.next_id()
        client.send(message(client.jid, "and now?", type="chat", id=id_))
        try:
            answer = await client.expect("message", id=id_, timeout_s=ANSWER_S)
        except AssertionError:
            return "silent"
        if answer.type != "error":
            return "answered"
        assert answer.at("error").get("type") == "wait", f"not wait: {answer}"
        return "wait"

    return await asyncio.gather(*(one(client) for client in clients))
