# SPDX-License-Identifier: Apache-2.0
"""`antiphon cluster`, as an operator uses it, before a real cluster."""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

from cluster.support.site import Site


async def test_status_shows_all_nodes_and_that_nothing_is_wrong(site: Site) -> None:
    done = await asyncio.to_thread(site["a"].command, "cluster", "status")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 nodes up" in done.stdout
    document = json.loads(
        (await asyncio.to_thread(site["a"].command, "cluster", "status", "--json")).stdout
    )
    assert sorted(document["nodes"]) == ["a", "b", "c"]
    assert document["ok"], document["problems"]
    assert sum(one["shards"]["served"] for one in document["nodes"].values()) == 4096


async def test_status_tells_which_node_is_gone(site: Site) -> None:
    site["c"].kill()
    await asyncio.to_thread(site.wait_settled, members=["a", "b"])
    done = await asyncio.to_thread(site["c"].command, "cluster", "status", "--json")
    assert done.returncode in (0, 1)
    document = json.loads(done.stdout)
    assert sorted(document["nodes"]) == ["a", "b"]


async def test_nodes_and_shards_agree_with_status(site: Site) -> None:
    listed = json.loads(
        (await asyncio.to_thread(site["b"].command, "cluster", "nodes", "--json")).stdout
    )
    assert [(one["id"], one["state"]) for one in listed] == [("a", "up"), ("b", "up"), ("c", "up")]
    shards = await asyncio.to_thread(site["b"].command, "cluster", "shards", "--json")
    assert shards.returncode == 0, shards.stderr


async def test_a_node_drained_by_command_gives_all_away_and_says_when_it_is_done(
    site: Site,
) -> None:
    begun = time.monotonic()
    done = await asyncio.to_thread(site["a"].command, "cluster", "drain", "b", timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begun < 30
    found = await asyncio.to_thread(site.statuses)
    assert "b" not in found or found["b"].served == 0
    assert not await asyncio.to_thread(site["b"].is_ready)
    await asyncio.to_thread(site["b"].stop)
    await asyncio.to_thread(site.heal)


async def test_a_drain_that_is_taken_back_brings_clients_and_the_same_shards_again(
    site: Site,
) -> None:
    (account,) = await asyncio.to_thread(site.strangers, 1)
    await asyncio.to_thread(site.wait_still)
    before = (await asyncio.to_thread(site.statuses))["b"].by_node
    drain = ("cluster", "drain", "b")
    assert (await asyncio.to_thread(site["a"].command, *drain)).returncode == 0
    assert not await asyncio.to_thread(site["b"].is_ready)
    done = await asyncio.to_thread(site["a"].command, *drain, "--cancel")
    assert done.returncode == 0, done.stdout + done.stderr
    await asyncio.to_thread(site.wait_still)
    assert (await asyncio.to_thread(site.statuses))["b"].by_node == before
    assert await asyncio.to_thread(site["b"].is_ready)
    await (await site.online(site["b"], account, "phone")).close()


async def test_a_rebalance_says_honestly_what_there_is_to_move(site: Site) -> None:
    await asyncio.to_thread(site.wait_still)
    for node in site.up:
        done = await asyncio.to_thread(node.command, "cluster", "rebalance", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(done.stdout)
        owned = (await asyncio.to_thread(site.statuses))[node.name].by_node
        assert document["moving"] == 0
        assert (document["least"], document["most"]) == (min(owned.values()), max(owned.values()))
    done = await asyncio.to_thread(site["a"].command, "cluster", "rebalance")
    assert "nothing to move: shards are balanced" in done.stdout


async def test_sessions_of_a_user_on_all_nodes_are_listed_and_ended_from_any(site: Site) -> None:
    (account,) = await asyncio.to_thread(site.strangers, 1)
    clients = [await site.online(node, account, f"at-{node.name}") for node in site.up]
    for node in site.up:
        done = await asyncio.to_thread(
            node.command, "command", "user-sessions", account.jid, "--json"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(client.jid in done.stdout for client in clients), done.stdout
    ended = await asyncio.to_thread(site["b"].command, "command", "end-session", clients[0].jid)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    await clients[0].expect_end()
    for client in clients[1:]:
        await client.sync()
        await client.close()


async def test_a_reload_takes_new_certificates_and_links_are_made_with_them(site: Site) -> None:
    node = site["b"]
    kept = [(path, path.read_bytes()) for path in (node.identity.certificate, node.identity.key)]
    fresh = site.authority.node("b", label="b-renewed")
    try:
        for (path, _), new in zip(kept, (fresh.certificate, fresh.key), strict=True):
            path.write_bytes(new.read_bytes())
        done = await asyncio.to_thread(site["a"].command, "cluster", "reload")
        assert done.returncode == 0, done.stdout + done.stderr
        before = await asyncio.to_thread(_connects, site, "a", "b")
        # Broken links are made anew, with what was read.
        site.network.cut(site["a"].place, node.place)
        await asyncio.sleep(7.0)
        site.network.heal()
        begun = time.monotonic()
        while await asyncio.to_thread(_connects, site, "a", "b") <= before:
            assert time.monotonic() - begun < 30, "no link after the certificate was renewed"
            await asyncio.sleep(0.3)
        assert not [line for line in ("refused", "expired") if line in node.log_text(tail=2_000)]
    finally:
        for path, content in kept:
            path.write_bytes(content)
        await asyncio.to_thread(site["a"].command, "cluster", "reload")
        await asyncio.to_thread(site.heal)


def _connects(site: Site, one: str, other: str) -> int:
    """How often the links from one node to another stood."""
    raw = site.statuses([site[one]])[one].raw
    peers = cast("list[dict[str, int | str]]", raw["peers"])
    return sum(int(peer["connects"]) for peer in peers if peer["node"] == other)


async def test_a_log_level_is_changed_on_the_node_that_is_named(site: Site) -> None:
    done = await asyncio.to_thread(site["a"].command, "cluster", "log-level", "debug", "b")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        before = site["b"].log_size
        (account,) = await asyncio.to_thread(site.strangers, 1)
        client = await site.online(site["b"], account, "phone")
        await client.close()
        assert '"debug"' in site["b"].log_since(before).lower()
    finally:
        await asyncio.to_thread(site["a"].command, "cluster", "log-level", "info", "b")
