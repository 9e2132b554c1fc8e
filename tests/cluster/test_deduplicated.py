# SPDX-License-Identifier: Apache-2.0
"""A message that a client sends again since its node died with the acknowledgement is known, and counted."""

from __future__ import annotations

import asyncio

from cluster.support.counters import DEDUPLICATED, FRESH_S
from cluster.support.homes import homes
from cluster.support.site import Site
from cluster.support.trial import repetitions
from durability import wire_reader
from support import ns
from support.archive import place
from support.client import Client
from support.xml import E, Element, message

MESSAGES = 7


def _numbered(to: str, n: int) -> Element:
    origin = E("origin-id", ns.SID, id=f"origin{n}")
    return message(to, f"{n}", origin, type="chat", id=f"m{n}")


async def test_what_is_sent_again_after_a_kill_is_counted_and_kept_once(site: Site) -> None:
    for _ in range(repetitions(1)):
        people = await asyncio.to_thread(site.strangers, 16)
        found = await homes(site, people)
        writer = next(one for one in people if found[one.jid].node == "a")
        reader = next(one for one in people if one is not writer and found[one.jid].node == "c")
        receiver = await site.online(site["c"], reader, "desk")
        await asyncio.sleep(FRESH_S)
        before = await asyncio.to_thread(site["a"].metric, DEDUPLICATED)
        first = await site.online(site["b"], writer, "phone", sm=True)
        shown = {}
        for n in range(MESSAGES):
            first.send(_numbered(receiver.jid, n))
            given = await receiver.expect("message", id=f"m{n}")
            shown[given.id] = place(given, reader.jid)
        site["b"].kill()
        # As if no acknowledgement had come: all of it, and one that is new.
        again: Client = await site.online(site["c"], writer, "phone", sm=True)
        for n in range(MESSAGES + 1):
            again.send(_numbered(receiver.jid, n))
        await receiver.expect("message", id=f"m{MESSAGES}")
        # Whether the client has it is not known; by its id it can tell.
        for given in receiver.inbox:
            if given.name == "message":
                assert place(given, reader.jid) == shown[given.id], f"another one: {given}"
        await asyncio.sleep(FRESH_S)
        counted = await asyncio.to_thread(site["a"].metric, DEDUPLICATED) - before
        assert counted == MESSAGES, f"{counted} of {MESSAGES} are counted"
        for client in (again, receiver):
            rows = await wire_reader.rows(client)
            assert [row.body for row in rows if row.body != "where am I?"] == [
                str(n) for n in range(MESSAGES + 1)
            ]
            await client.close()
        await asyncio.to_thread(site["b"].start)
        await asyncio.to_thread(site.wait_settled)
