# SPDX-License-Identifier: Apache-2.0
"""XEP-0334 Message Processing Hints: what the sender wishes for storing and copying."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element, message

HINTS = ["no-permanent-store", "no-store", "no-copy", "store"]


@pytest.mark.parametrize("hint", HINTS)
async def test_hint_is_passed_on(romeo: Client, juliet: Client, hint: str) -> None:
    romeo.send(message(juliet.jid, E("body", None, "x"), E(hint, ns.HINTS), type="chat"))
    assert (await juliet.expect("message")).has(hint, ns.HINTS)


@pytest.mark.deviates(prosody="knows no hints in offline storage")
@pytest.mark.parametrize(
    ("hints", "content", "kept"),
    [
        (["no-store"], [E("body", None, "x")], False),
        (["no-permanent-store"], [E("body", None, "x")], True),
        (["store"], [E("x", "urn:example:x")], True),
        (["store"], [E("composing", ns.CHATSTATES)], True),
        (["no-copy"], [E("body", None, "x")], True),
    ],
    ids=["no-store", "no-permanent-store", "store", "store-chat-state", "no-copy"],
)
async def test_hint_wins_over_the_default_in_offline_storage(
    clients: Clients, romeo: Client, hints: list[str], content: list[Element], kept: bool
) -> None:
    # XEP-0334 #no-store, #no-permanent-store, #store; requirements 7, table
    account = clients.server.account()
    elements = [E(h, ns.HINTS) for h in hints]
    romeo.send(message(account.jid, *content, *elements, type="chat", id="m1"))
    await romeo.sync()
    late = await clients.online(account)
    await late.sync()
    found = [e for e in late.drain() if e.name == "message" and e.id == "m1"]
    assert bool(found) == kept
