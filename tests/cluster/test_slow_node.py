# SPDX-License-Identifier: Apache-2.0
"""Flow control end to end: a node that takes nothing never grows another's memory.

One node is frozen, for less than its lease, under a flood that only it can take. Three things then
bound what another keeps for it, each of its own (rust/net/src/session.rs, rust/node/src/mesh/lanes.rs,
rust/node/src/cluster.rs), and each is met: what a client may have under way, what may be under way to
some shards, what may wait for a link. The way between two others stays free meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cluster.support.homes import Home, homes
from cluster.support.node import Node
from cluster.support.site import Site
from cluster.support.trial import note
from support.client import Client
from support.endpoint import Account
from support.xml import message

FROZEN_S = 5.0
"""A keepalive is three seconds old at most, and a lease ends nine behind the last."""
BEAT_S = 0.2
TEXT_BYTES = 16 * 1024
STANZA_BYTES = TEXT_BYTES + 300
"""With its addresses, its id and what it costs to keep it, less than that."""
SESSION_BYTES = 64 * 1024
"""Under way for one client before no more is read of it."""
LANES, LANES_BYTES = 64, 4 * 1024 * 1024
"""Shards with one remainder share what may be under way to them."""
LINK_BYTES = 8 * 1024 * 1024
"""Waits for a link before what sessions are given stays with them."""
SLACK_BYTES = 48 * 1024 * 1024
"""Buffers of sockets and what the allocator keeps."""
PROBE_S = 2.0
DONE_S = 60.0


@dataclass
class Ice:
    """What was seen while a node was frozen."""

    queued: list[float] = field(default_factory=list)
    """Bytes that waited for it at the other."""
    ways_s: list[float] = field(default_factory=list)
    """How long a message between two users of other nodes took."""
    grown_bytes: int = 0

    @property
    def peak(self) -> float:
        """The most that waited."""
        return max(self.queued)


@asynccontextmanager
async def frozen(ice: Ice, node: Node, other: Node, pair: Sequence[Client]) -> AsyncIterator[None]:
    """Freezes `node`, lets the block begin a flood, and looks at `other` until the time is over."""
    before = other.memory_bytes()
    node.freeze()
    try:
        begun = time.monotonic()
        yield
        while time.monotonic() - begun < FROZEN_S:
            found = await asyncio.to_thread(
                other.metric, "antiphon_relay_queued_bytes", peer=node.name, class_="stanza"
            )
            ice.queued.append(found)
            ice.grown_bytes = max(ice.grown_bytes, other.memory_bytes() - before)
            ice.ways_s.append(await _way(pair, f"probe{len(ice.ways_s)}"))
            await asyncio.sleep(BEAT_S)
    finally:
        node.thaw()
    note("waited for a frozen node", "MiB", ice.peak / 2**20)
    note("another's memory grew meanwhile by", "MiB", ice.grown_bytes / 2**20)
    note("way between two others meanwhile, longest", "s", max(ice.ways_s))
    assert max(ice.ways_s) < PROBE_S, "the way between two others is not free"


async def _way(pair: Sequence[Client], id_: str) -> float:
    begun = time.monotonic()
    pair[0].send(message(pair[1].jid, "free?", type="chat", id=id_))
    await pair[1].expect("message", id=id_, timeout_s=10.0)
    return time.monotonic() - begun


@dataclass
class People:
    """Users by their homes."""

    at: dict[str, list[Account]]
    homes: dict[str, Home]

    def take(self, name: str, count: int, *, is_spread: bool = False) -> list[Account]:
        """Some with this home that nobody has taken yet; spread: no two of them share lanes."""
        found: list[Account] = []
        seen: set[int] = set()
        for account in list(self.at[name]):
            place = self.homes[account.jid].shard % LANES
            if len(found) < count and not (is_spread and place in seen):
                seen.add(place)
                found.append(account)
                self.at[name].remove(account)
        assert len(found) == count, f"not enough users live at {name}"
        return found


async def _people(site: Site, count: int) -> People:
    accounts = await asyncio.to_thread(site.strangers, count)
    found = await homes(site, accounts)
    at: dict[str, list[Account]] = {name: [] for name in site.nodes}
    for account in accounts:
        at[found[account.jid].node].append(account)
    return People(at, found)


async def _probes(site: Site, people: People) -> list[Client]:
    """Two users whose homes and sockets are at a and c."""
    (near,), (far,) = people.take("a", 1), people.take("c", 1)
    return [await site.online(site["a"], near, "near"), await site.online(site["c"], far, "far")]


def _flood(sender: Client, receiver: str, count: int) -> None:
    """Writes it all at once; the server reads what it will."""
    for n in range(count):
        sender.send(message(receiver, f"{n} {'x' * TEXT_BYTES}", type="chat", id=f"f{n}"))


def _got(receiver: Client, sender: Client) -> list[int]:
    """Numbers of the messages that came, in their order."""
    found = [e for e in receiver.inbox if e.name == "message" and e.type != "error"]
    return [int((e.body or "").partition(" ")[0]) for e in found if e.frm == sender.jid]


def _bounced(sender: Client) -> list[int]:
    """Numbers of those that came back, each of which has to be told to wait."""
    found = []
    for e in sender.inbox:
        if e.name == "message" and e.type == "error":
            error = e.at("error")
            assert (error.get("type"), error.condition) == ("wait", "resource-constraint"), str(e)
            found.append(int((e.id or "f-1")[1:]))
    return found


async def _all_handled(clients: Sequence[Client]) -> None:
    for client in clients:
        await _handled(client)


async def _handled(client: Client) -> None:
    """Waits until the server's count covers all that was sent (XEP-0198)."""
    assert client.sm is not None
    deadline = time.monotonic() + DONE_S
    while (h := await client.sm_request()) < client.sm.sent:
        assert time.monotonic() < deadline, f"{h} of {client.sm.sent} are handled"
        await asyncio.sleep(0.2)


async def test_clients_whose_home_takes_nothing_are_held_back_and_not_refused(site: Site) -> None:
    people = await _people(site, 60)
    pair = await _probes(site, people)
    (friend_account,) = people.take("a", 1)
    friend = await site.online(site["a"], friend_account, "friend")
    held = [await site.online(site["a"], one, "phone", sm=True) for one in people.take("b", 12)]
    ice, count = Ice(), 60
    async with frozen(ice, site["b"], site["a"], pair):
        for client in held:
            _flood(client, friend.jid, count)
    limit = len(held) * (SESSION_BYTES + STANZA_BYTES)
    assert ice.peak > 0.9 * len(held) * SESSION_BYTES, "the limit was not met"
    assert ice.peak <= limit, "more than its limit is kept of a client"
    assert ice.grown_bytes < limit + SLACK_BYTES
    await _all_handled(held)
    for client in held:
        await friend.wait_for(
            lambda c=client: len(_got(friend, c)) >= count,  # type: ignore[misc]
            DONE_S,
            f"{count} messages from {client.jid}",
        )
        assert _got(friend, client) == list(range(count))
        assert not _bounced(client), "refused instead of held back"
    await _end([*pair, friend, *held])


async def test_what_is_under_way_to_a_home_that_takes_nothing_has_a_limit(site: Site) -> None:
    people = await _people(site, 60)
    pair = await _probes(site, people)
    ways = 4
    receivers = [
        await site.online(site["a"], one, "phone") for one in people.take("b", ways, is_spread=True)
    ]
    senders = [await site.online(site["a"], one, "desk", sm=True) for one in people.take("a", ways)]
    ice, count = Ice(), 5 * LANES_BYTES // 4 // TEXT_BYTES
    async with frozen(ice, site["b"], site["a"], pair):
        for sender, receiver in zip(senders, receivers, strict=True):
            _flood(sender, receiver.bare, count)
    limit = ways * (LANES_BYTES + LANES_BYTES // TEXT_BYTES * 32)
    assert ice.peak > 0.95 * ways * LANES_BYTES, "the limit was not met"
    assert ice.peak <= limit, "more than its limit is under way"
    assert ice.grown_bytes < 2 * limit + SLACK_BYTES
    await _all_handled(senders)
    for sender, receiver in zip(senders, receivers, strict=True):
        await receiver.wait_for(
            lambda s=sender, r=receiver: len(_got(r, s)) + len(_bounced(s)) >= count,  # type: ignore[misc]
            DONE_S,
            f"{count} messages from {sender.jid} here or back",
        )
        got, bounced = _got(receiver, sender), _bounced(sender)
        print(f"{len(got)} came, {len(bounced)} were told to wait")
        assert bounced, "nothing was above the limit"
        assert sorted([*got, *bounced]) == list(range(count)), "lost, or both come and refused"
        assert got == sorted(got)
    await _end([*pair, *receivers, *senders])


async def test_what_waits_for_sockets_of_a_node_that_takes_nothing_has_a_limit(site: Site) -> None:
    people = await _people(site, 60)
    pair = await _probes(site, people)
    ways, count = 5, 200
    receivers = [await site.online(site["b"], one, "phone") for one in people.take("a", ways)]
    senders = [await site.online(site["a"], one, "desk", sm=True) for one in people.take("a", ways)]
    ice = Ice()
    async with frozen(ice, site["b"], site["a"], pair):
        for sender, receiver in zip(senders, receivers, strict=True):
            _flood(sender, receiver.jid, count)
    total = ways * count * TEXT_BYTES
    limit = LINK_BYTES + count * STANZA_BYTES
    assert ice.peak > 0.95 * LINK_BYTES, "the limit was not met"
    assert ice.peak <= limit < total, "more than its limit waits for the link"
    assert ice.grown_bytes < 2 * total + SLACK_BYTES
    await _all_handled(senders)
    for sender, receiver in zip(senders, receivers, strict=True):
        await receiver.wait_for(
            lambda s=sender, r=receiver: len(_got(r, s)) >= count,  # type: ignore[misc]
            DONE_S,
            f"{count} messages from {sender.jid}",
        )
        assert _got(receiver, sender) == list(range(count))
        assert not _bounced(sender)
        assert not receiver.eof, "a client whose node was frozen was thrown out"
    await _end([*pair, *receivers, *senders])


async def _end(clients: Sequence[Client]) -> None:
    for client in clients:
        client.abort()
    await asyncio.sleep(0.5)
