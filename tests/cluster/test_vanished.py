# SPDX-License-Identifier: Apache-2.0
"""Deaths that nobody can prove at once: a machine that vanishes, and the one of two nodes."""

from __future__ import annotations

import asyncio
import time

from cluster.support.network import Network
from cluster.support.node import DOMAIN
from cluster.support.site import Site
from cluster.support.trial import note, repetitions
from support.endpoint import Account

LEASE_S = 10.0
SPARE_S = 6.0
"""For the take-over itself, on a busy machine."""


async def test_a_machine_that_vanishes_is_taken_over_from_when_its_lease_has_ended(
    site: Site, cuts: Network
) -> None:
    for at in range(repetitions(1)):
        # Calls from node to node, for accounts everywhere: connections that will not hear the end.
        await asyncio.to_thread(site["a"].create, _accounts(f"before{at}"))
        # Nothing comes out of it any more, so that no port refuses.
        for other in site.nodes.values():
            if other.name != "b":
                cuts.cut(site["b"].place, other.place)
        for member in site.etcd.members:
            cuts.cut(site["b"].place, member.place)
        begun = time.monotonic()
        site["b"].kill()
        await asyncio.to_thread(
            site.wait_settled, site["a"], site["c"], members=["a", "c"], timeout_s=40.0
        )
        took = time.monotonic() - begun
        note("take-over from a machine that vanished", "s", took)
        assert took < LEASE_S + SPARE_S
        cuts.heal()
        await asyncio.to_thread(site.heal)
        await asyncio.to_thread(site["a"].create, _accounts(f"after{at}"))


def _accounts(name: str) -> list[Account]:
    return [Account(f"{name}{n}@{DOMAIN}", "secret") for n in range(24)]


async def test_of_two_nodes_the_other_takes_over_within_two_leases(site: Site) -> None:
    for _ in range(repetitions(1)):
        site["c"].terminate()
        await asyncio.to_thread(site["c"].wait_end)
        await asyncio.to_thread(site.wait_settled, members=["a", "b"])
        begun = time.monotonic()
        site["b"].kill()
        await asyncio.to_thread(site.wait_settled, site["a"], members=["a"], timeout_s=40.0)
        took = time.monotonic() - begun
        note("take-over by the other one of two nodes", "s", took)
        assert took < 2 * LEASE_S + SPARE_S
        await asyncio.to_thread(site.heal)
