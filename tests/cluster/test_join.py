# SPDX-License-Identifier: Apache-2.0
"""Nodes that join and leave while others are under load, and those that are not let in."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from cluster.support.authority import ClusterAuthority
from cluster.support.node import Node
from cluster.support.site import Site
from cluster.support.trial import note, under_load
from support.antiphon import Table
from support.certs import KeyPair

REFUSED_S = 25.0


async def test_a_fourth_node_joins_under_load_takes_its_share_and_leaves_again(site: Site) -> None:
    fourth = site.nodes.get("d") or site.add("d")
    try:
        async with under_load(site, nodes=[site[n] for n in "abc"]) as trial:
            await asyncio.sleep(1.0)
            begun = time.monotonic()
            await asyncio.to_thread(fourth.start)
            found = await asyncio.to_thread(site.wait_settled)
            note("a fourth node serves its shards after", "s", time.monotonic() - begun)
            assert found["d"].served > 4096 // 4 * 0.9
            await asyncio.sleep(2.0)
            fourth.terminate()
            assert await asyncio.to_thread(fourth.wait_end, 60.0) == 0
            await asyncio.to_thread(site.wait_settled)
        assert not trial.load.drops, f"sessions of others ended: {trial.load.drops[:3]}"
        assert not trial.load.errors, f"errors: {trial.load.errors[:3]}"
        assert not trial.missed
        assert not trial.repeats
    finally:
        fourth.kill()
        del site.nodes["d"]


async def test_a_drained_node_hands_over_and_ends_within_its_time(site: Site) -> None:
    async with under_load(site, always_resume=True) as trial:
        await asyncio.sleep(1.0)
        begun = time.monotonic()
        site["c"].terminate()
        await asyncio.sleep(0.3)
        assert not await asyncio.to_thread(site["c"].is_ready), "ready while it drains"
        code = await asyncio.to_thread(site["c"].wait_end, 60.0)
        took = time.monotonic() - begun
        await asyncio.to_thread(site.wait_settled, members=["a", "b"])
        await trial.load.all_in()
        await asyncio.to_thread(site["c"].start)
    note("drain of a node with a third of the load", "s", took)
    assert code == 0
    assert took < 30.0
    assert not trial.load.failed_resumptions
    assert not trial.repeats
    assert not trial.missed


@pytest.fixture
def outsider(site: Site) -> Node:
    """A node that is told something wrong; not started."""
    pair = site.authority.node("z")
    return Node("z", site.network.place("z"), site.folder / "z", site.wiring, pair)


async def refused(site: Site, node: Node, *words: str) -> None:
    """Asserts that a node is kept out, and that one side or the other says why."""
    node.spawn()
    deadline = time.monotonic() + REFUSED_S
    try:
        while not any(word in _said(site, node) for word in words):
            assert not node.is_ready(), "it serves"
            assert time.monotonic() < deadline, (
                f"nobody says {words}:\n{node.log_text()}\n{site['a'].log_text(tail=1500)}"
            )
            await asyncio.sleep(0.3)
        assert not node.is_ready()
        members = await asyncio.to_thread(lambda: site.statuses([site["a"]])["a"].members)
        assert "z" not in members or members["z"] != "up"
    finally:
        node.kill()
        shutil.rmtree(node.folder, ignore_errors=True)


def _said(site: Site, node: Node) -> str:
    others = "".join(one.log_text(tail=20_000) for one in site.nodes.values())
    return (node.log_text(tail=20_000) + others).lower()


async def test_a_certificate_of_another_authority_is_refused(
    site: Site, outsider: Node, tmp_path: Path
) -> None:
    outsider.identity = ClusterAuthority(tmp_path, "somebody else").node("z")
    await refused(site, outsider, "certificate")
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])


async def test_a_certificate_that_names_another_node_is_refused(site: Site, outsider: Node) -> None:
    other: KeyPair = site.authority.node("y", label="z-as-y")
    outsider.identity = other
    await refused(site, outsider, "certificate")


async def test_a_node_of_another_cluster_is_refused(site: Site, outsider: Node) -> None:
    table: Table = {"name": "another"}
    outsider.extra = {"cluster": table}
    await refused(site, outsider, "cluster name", "another")


async def test_sqlite_beside_etcd_is_refused_by_check_and_at_start(
    site: Site, outsider: Node
) -> None:
    outsider.extra = {"storage": {"backend": "sqlite"}}
    outsider.write_config()
    checked = outsider.command("check")
    assert checked.returncode != 0
    assert "sqlite" in (checked.stdout + checked.stderr).lower()
    started = outsider.command("serve", timeout_s=20)
    assert started.returncode != 0
    assert "sqlite" in (started.stdout + started.stderr).lower()
