# SPDX-License-Identifier: Apache-2.0
"""Reads every archive, by the wire and from Cassandra, and judges a run that has come to rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from durability import cassandra_reader, wire_reader
from durability.ledger import Row
from support.endpoint import Account, Endpoint

from .load import Load
from .records import Findings, History, Poll, judge
from .site import Site

READERS = 12
"""Archives read over the wire at a time."""


async def by_wire(doors: Sequence[Endpoint], accounts: Sequence[Account]) -> dict[int, list[Row]]:
    """Each archive as a client reads it, through the nodes in turn."""
    turns = asyncio.Semaphore(READERS)

    async def read(number: int, account: Account) -> list[Row]:
        async with turns:
            return await wire_reader.archive(doors[(number + 1) % len(doors)], account)

    found = await asyncio.gather(*(read(n, account) for n, account in enumerate(accounts)))
    return dict(enumerate(found))


def by_store(site: Site, accounts: Sequence[Account]) -> dict[int, list[Row]]:
    """Each archive as Cassandra's own driver finds it."""
    owners = [account.jid for account in accounts]
    return cassandra_reader.archives(site.wiring.contact_points, site.keyspace, owners)


async def history_of(site: Site, load: Load, polls: Sequence[Poll] = ()) -> History:
    """All that is known of a run; its load has settled, its sessions may be closed."""
    accounts = [person.account for person in load.people]
    doors = [replace(node.door, domain=accounts[0].domain) for node in site.up]
    wire = await by_wire(doors, accounts)
    store = await asyncio.to_thread(by_store, site, accounts)
    return History(load.ledger, load.sights, list(polls), wire, store)


async def verdict(site: Site, load: Load, polls: Sequence[Poll] = ()) -> Findings:
    """Lets a load come to rest and finds what is wrong with it."""
    await load.settle()
    await load.quiesce()
    await load.close()
    return judge(await history_of(site, load, polls))
