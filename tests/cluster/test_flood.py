# SPDX-License-Identifier: Apache-2.0
"""Two nodes that flood each other never wait for each other for ever, and memory stays."""

from __future__ import annotations

import asyncio
import time

from cluster.support.site import Site
from cluster.support.trial import note, number
from support.client import Client
from support.xml import message

MESSAGES = 1_500
PAIRS = 10
GROWTH_BYTES = 300 * 1024 * 1024
PATIENCE_S = 90.0


async def test_two_nodes_that_flood_each_other_deliver_everything_in_order(site: Site) -> None:
    count = int(number("CHAOS_FLOOD", MESSAGES))
    people = await asyncio.to_thread(site.strangers, 2 * PAIRS)
    near = [await site.online(site["a"], one, "desk") for one in people[:PAIRS]]
    far = [await site.online(site["b"], one, "desk") for one in people[PAIRS:]]
    ways = [*zip(near, far, strict=True), *zip(far, near, strict=True)]
    memory = {node.name: node.memory_bytes() for node in site.up}
    begun = time.monotonic()
    # Everybody writes without reading: both nodes' links are full both ways at once.
    for one in (*near, *far):
        one.pause()
    for sender, receiver in ways:
        text = "".join(
            message(receiver.jid, f"{n} {'x' * 300}", type="chat", id=f"f{n}").xml("jabber:client")
            for n in range(count)
        )
        sender.transport.write(text)
    await asyncio.sleep(3.0)
    grown = {node.name: node.memory_bytes() - memory[node.name] for node in site.up}
    for one in (*near, *far):
        _read_on(one)
    for sender, receiver in ways:
        await receiver.wait_for(
            lambda r=receiver, s=sender: len(_got(r, s)) >= count,  # type: ignore[misc]
            max(1.0, PATIENCE_S - (time.monotonic() - begun)),
            f"{count} messages from {sender.jid}",
        )
        assert _got(receiver, sender) == list(range(count))
    took = time.monotonic() - begun
    note(f"{2 * PAIRS * count} messages of a flood between two nodes", "s", took)
    note("memory of a node grew meanwhile by", "MiB", *(b / 2**20 for b in grown.values()))
    assert max(grown.values()) < GROWTH_BYTES
    for one in (*near, *far):
        one.abort()


def _got(receiver: Client, sender: Client) -> list[int]:
    return [
        int((e.body or "").partition(" ")[0])
        for e in receiver.inbox
        if e.name == "message" and e.frm == sender.jid and e.type != "error"
    ]


def _read_on(client: Client) -> None:
    transport = getattr(client.transport, "_transport", None)
    assert isinstance(transport, asyncio.Transport)
    transport.resume_reading()
