# SPDX-License-Identifier: Apache-2.0
"""Which node is home to a user: it tells whose rows it writes (`cluster.write_log`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from support.client import Client
from support.endpoint import Account
from support.xml import message

from .site import Site

FOUND_S = 15.0


class Home(NamedTuple):
    """Where an address lives."""

    node: str
    shard: int


async def homes(site: Site, accounts: Sequence[Account]) -> dict[str, Home]:
    """The homes of these users, by bare JID, as long as the map stays; each writes to himself once."""
    await asyncio.to_thread(site.wait_still)
    so_far = site.writes_so_far()
    for account in accounts:
        client: Client = await site.online(site.up[0], account, "where")
        client.send(message(client.bare, "where am I?", type="chat", id="where"))
        await client.expect("message", id="where")
        await client.close()
    wanted = {account.jid for account in accounts}
    found: dict[str, Home] = {}
    deadline = time.monotonic() + FOUND_S
    while wanted - set(found):
        assert time.monotonic() < deadline, f"nobody writes for {sorted(wanted - set(found))[:3]}"
        await asyncio.sleep(0.2)
        for name, node in site.nodes.items():
            for one in node.writes(so_far.get(name, 0)):
                if one.owner in wanted:
                    found[one.owner] = Home(name, one.shard)
    return found
