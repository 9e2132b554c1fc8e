# SPDX-License-Identifier: Apache-2.0
"""An archive of 10,000 messages that foreign clients page through.

`OWNER` wrote to and heard from four people. A body says whose conversation it is, which way it
went, its number there and one of seven words to search for: `kent in 17 ciánkék`. So a client can
tell what must be there, and in which order, without having been told by the archive.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from support.archive import chat
from support.client import Client, fence
from support.endpoint import Account, Endpoint
from support.server import Server

OWNER = "lear"
PEERS = {"kent": (2_500, 1_600), "edgar": (2_000, 1_200), "fool": (1_000, 800), "regan": (500, 400)}
"""How many messages the owner got from each, and wrote to them: all different, 10,000 together."""
WORDS = ("amber", "bordó", "ciánkék", "dunkelgrün", "écarlate", "fuchsia", "东京塔")
AT_ONCE = 100
"""Messages between two looks at whether they have arrived."""


@dataclass(frozen=True)
class History:
    """Whose archive it is, and with whom; the order of `PEERS`."""

    owner: Account
    peers: list[Account]

    def described(self) -> dict[str, object]:
        """What a foreign client is told, in JSON's types."""
        counts = PEERS.values()
        peers = [
            {"jid": peer.jid, "name": name, "in": received, "out": sent}
            for peer, name, (received, sent) in zip(self.peers, PEERS, counts, strict=True)
        ]
        owner = {"jid": self.owner.jid, "user": self.owner.user, "password": self.owner.password}
        return {"owner": owner, "peers": peers, "words": list(WORDS)}


def accounts(server: Server, domain: str) -> History:
    """The people, made on the server where that is possible."""
    names = [OWNER, *PEERS]
    if server.kind == "external":
        owner, *peers = (server.account() for _ in names)
    else:
        owner, *peers = (server.named(name, domain) for name in names)
        server.create([owner, *peers])
    return History(owner, peers)


async def fill(endpoint: Endpoint, history: History) -> None:
    """Has all of it written: every conversation both ways, all at the same time.

    Each has connections of its own on both sides, which are told nothing but what is addressed to
    them, so nothing waits for another's messages.
    """
    await asyncio.gather(
        *(
            _converse(endpoint, history.owner, peer, name, counts)
            for peer, (name, counts) in zip(history.peers, PEERS.items(), strict=True)
        )
    )


async def _converse(
    endpoint: Endpoint, owner: Account, peer: Account, name: str, counts: tuple[int, int]
) -> None:
    near, far = Client(endpoint, owner), Client(endpoint, peer)
    try:
        await asyncio.gather(near.login(f"with-{name}"), far.login("there"))
        received, sent = counts
        await asyncio.gather(
            _write(far, near, f"{name} in", received), _write(near, far, f"{name} out", sent)
        )
    finally:
        await asyncio.gather(near.close(), far.close())


async def _write(frm: Client, to: Client, prefix: str, count: int) -> None:
    for number in range(count):
        frm.send(chat(to.jid, f"{prefix} {number} {WORDS[number % len(WORDS)]}"))
        if number % AT_ONCE == AT_ONCE - 1 or number == count - 1:
            await fence(frm, to)
            _forget(frm, to)


def _forget(*clients: Client) -> None:
    """Drops what was delivered: neither inbox nor log is looked at again. Fences stay."""
    for client in clients:
        client.log.clear()
        client.inbox[:] = [e for e in client.inbox if e.body is None]
