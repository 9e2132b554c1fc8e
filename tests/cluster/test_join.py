# SPDX-License-Identifier: Apache-2.0
"""Nodes that join and leave while others are under load."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import note, under_load


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
