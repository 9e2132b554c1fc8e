# SPDX-License-Identifier: Apache-2.0
"""K3: contacts of sessions that died with their node get one unavailable presence for each."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import note, repetitions
from cluster.support.watch import befriend, seen_of, told
from support.client import Client

LIMIT_S = 15.0
SUBJECTS = 6


async def test_k3_contacts_get_one_unavailable_for_each_lost_session(site: Site) -> None:
    people = await asyncio.to_thread(site.strangers, SUBJECTS + 2)
    witnesses = [
        await site.online(site["a"], people[-1], "near", sm=True),
        await site.online(site["c"], people[-2], "far", sm=True),
    ]
    for number in range(repetitions(2)):
        subjects = [
            await site.online(site["b"], account, f"phone{number}", sm=True)
            for account in people[:SUBJECTS]
        ]
        await _acquaint(witnesses, subjects, is_first=number == 0)
        # What a node has taken on and not yet called done when it dies may come once more.
        for client in [*witnesses, *subjects]:
            await client.sm_settle()
        await asyncio.to_thread(site.wait_relayed)
        begun = time.monotonic()
        site["b"].kill()
        for witness in witnesses:
            for subject in subjects:
                await told(witness, subject.jid, "unavailable", LIMIT_S)
        note("contacts told of lost sessions after", "s", time.monotonic() - begun)
        await asyncio.sleep(2.0)
        for witness in witnesses:
            for subject in subjects:
                assert seen_of(witness, subject.jid) == ["unavailable"]
            witness.drain()
        await asyncio.to_thread(site["b"].start)
        await asyncio.to_thread(site.wait_settled)
    for witness in witnesses:
        await witness.close()


async def _acquaint(witnesses: list[Client], subjects: list[Client], *, is_first: bool) -> None:
    for witness in witnesses:
        for subject in subjects:
            if is_first:
                await befriend(witness, subject)
            else:
                await told(witness, subject.jid, None, 10.0)
        witness.drain()
