# SPDX-License-Identifier: Apache-2.0
"""R1, R2: every node restarted in turn, and two versions beside each other; nobody notices."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from antiphon import __version__
from cluster.support.counters import Handovers, handovers
from cluster.support.node import OTHER_BUILD, Node
from cluster.support.site import Site
from cluster.support.trial import Trial, dice, note, repetitions, under_load
from cluster.support.watch import befriend, seen_of
from support.client import Client

DRAIN_S = 60.0


async def restart(
    site: Site, node: Node, *, version: str | None = None, build: Path | None = None
) -> float:
    """SIGTERM, its end, the next life; how long the drain took, in seconds."""
    others = [one for one in site.nodes.values() if one is not node]
    # A share that is being evened out would be counted as handed over, too.
    await asyncio.to_thread(site.wait_still)
    shards = (await asyncio.to_thread(site.statuses))[node.name].served
    before = await asyncio.to_thread(handovers, others)
    begun = time.monotonic()
    node.terminate()
    code = await asyncio.to_thread(node.wait_end, DRAIN_S)
    took = time.monotonic() - begun
    assert code == 0, f"{node.name} ended with {code}:\n{node.log_text()}"
    # They take up what they were given one after another.
    moved = (await asyncio.to_thread(handovers, others)).since(before)
    while moved.taken_clean < shards and time.monotonic() - begun < DRAIN_S:
        await asyncio.sleep(0.2)
        moved = (await asyncio.to_thread(handovers, others)).since(before)
    assert moved == Handovers(taken_clean=shards), f"of {shards} shards: {moved}"
    node.version, node.build = version, build
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(site.wait_settled)
    return took


def unnoticed(trial: Trial) -> None:
    """Asserts what clients that resume must not notice (the verdict has been found already)."""
    load = trial.load
    assert load.resumed, "nobody had to resume"
    assert not load.failed_resumptions, f"{load.failed_resumptions} sessions were not resumed"
    assert not load.errors, f"errors: {load.errors[:3]}"
    assert not trial.repeats, f"doubled: {trial.repeats[:5]}"
    assert not trial.missed, f"not delivered: {trial.missed[:5]}"
    assert not trial.late, f"late: {trial.late[:5]}"


async def test_r1_a_rolling_restart_loses_and_doubles_nothing_and_every_session_goes_on(
    site: Site,
) -> None:
    async with under_load(site, always_resume=True) as trial:
        for _ in range(repetitions(1)):
            for node in list(site.nodes.values()):
                took = await restart(site, node)
                await trial.load.all_in()
                note("drain in a rolling restart", "s", took)
    unnoticed(trial)


async def test_r1_contacts_of_sessions_that_go_on_elsewhere_see_no_flap(site: Site) -> None:
    for at in range(repetitions(3)):
        # Each node in turn: whose home a contact's is, differs with it.
        await _moves_without_a_flap(site, site["bca"[at % 3]], site["cab"[at % 3]])
        await asyncio.to_thread(site.heal)


async def _moves_without_a_flap(site: Site, node: Node, next_: Node) -> None:
    """Ends a node in order, and has its sessions go on at the next; a third one's user looks on."""
    (third,) = (one for one in site.nodes.values() if one not in (node, next_))
    accounts = await asyncio.to_thread(site.strangers, 7)
    witness = await site.online(third, accounts[-1], "witness")
    movers = [await site.online(node, one, "phone", sm=True) for one in accounts[:-1]]
    for mover in movers:
        await befriend(witness, mover)
    witness.drain()
    node.terminate()
    moved: list[Client] = []
    for mover in movers:
        await mover.expect_end(timeout_s=DRAIN_S)
        client = Client(next_.door, mover.account)
        client.auto_ack = True
        await client.negotiate()
        await client.authenticate()
        answer = await client.sm_resume(mover)
        assert answer.name == "resumed", f"not resumed: {answer}"
        moved.append(client)
    await asyncio.to_thread(node.wait_end, DRAIN_S)
    await asyncio.sleep(2.0)
    for mover in movers:
        assert seen_of(witness, mover.jid) == [], f"presence of {mover.jid} flapped"
    for client in [*moved, witness]:
        await client.close()


async def test_r2_two_versions_beside_each_other_pass_k1_and_a_rolling_upgrade(site: Site) -> None:
    """Nodes of two versions join, speak and hand over to each other, each of them dies among nodes of
    the other, and the whole cluster goes from one to the other and back.

    With `ANTIPHON_OTHER_BUILD` (see cluster.support.build) the other version is another build; else
    it is this one under another number, and that another wire format is understood is proved by the
    reading of unknown fields in rust/cluster alone.
    """
    rolls = dice()
    other = _next(__version__)
    build = Path(named) if (named := os.environ.get(OTHER_BUILD)) else None
    print(f"R2: the other version is {f'the build in {build}' if build else 'this build'}")
    try:
        async with under_load(site, always_resume=True) as trial:
            await restart(site, site["a"], version=other, build=build)
            await trial.load.all_in()
            assert build is None or site["a"].has_open(build), "a does not run the other build"
            versions = _versions(site)
            assert len(set(versions.values())) == 2, f"versions are {versions}"
            for name in ("b", "c"):
                await restart(site, site[name], version=other, build=build)
                await trial.load.all_in()
        unnoticed(trial)
        await restart(site, site["c"])
        async with under_load(site, users=150) as trial:
            for _ in range(repetitions(1)):
                # One of the other build, then one of this.
                for name in (rolls.choice("ab"), "c"):
                    await asyncio.sleep(1.0)
                    site[name].kill()
                    await trial.load.all_in()
                    await asyncio.to_thread(site[name].start)
                    await asyncio.to_thread(site.wait_settled)
        async with under_load(site, always_resume=True) as trial:
            for name in ("a", "b"):
                await restart(site, site[name])
                await trial.load.all_in()
        unnoticed(trial)
    finally:
        for node in site.nodes.values():
            if node.build is not None or node.version is not None:
                node.kill()
                node.version = node.build = None


def _next(version: str) -> str:
    """The next minor version."""
    major, minor, *_ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


def _versions(site: Site) -> dict[str, str]:
    """Of each member, as one node sees them."""
    seen = site.statuses([site["b"]])["b"].raw["members"]
    assert isinstance(seen, list)
    return {str(one["id"]): str(one["version"]) for one in seen}
