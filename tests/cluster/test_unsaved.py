# SPDX-License-Identifier: Apache-2.0
"""A node that cannot save holds its clients back at its limit: no refusal, no growth, no loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from cluster.support.homes import homes
from cluster.support.site import Site
from cluster.support.trial import note
from durability.wire_reader import Quiet
from support import ns
from support.client import Client
from support.endpoint import Account
from support.xml import E, message

UNSAVED_BYTES = 256 * 1024 * 1024
"""Handed to the store and not saved, before no client is read (rust/node/src/saving.rs)."""
SPARE_BYTES = 128 * 1024 * 1024
"""More than that behind it the store refuses (rust/node/src/storage.rs)."""
SLACK_BYTES = 96 * 1024 * 1024
"""Sessions, buffers of sockets, and what the allocator keeps."""
USERS, SESSIONS = 30, 20
TEXT_BYTES = 250_000
"""Kept twice, in the sender's archive and in the receiver's."""
LOGINS = 40
MET_S = 20.0
HELD_S = 3.0
DONE_S = 120.0


async def test_at_the_limit_of_what_is_unsaved_clients_wait_and_nothing_is_refused(
    site: Site,
) -> None:
    node = site["a"]
    # A home that moves meanwhile would have them wait on a link instead.
    await asyncio.to_thread(site.wait_still)
    accounts, witness_account = await _of_one_home(site)
    witness: Client = await site.online(node, witness_account, "witness")
    sessions = await _sessions(site, accounts)
    before, errors = node.memory_bytes(), node.metric("antiphon_store_errors_total")
    site.store.pause()
    try:
        for n, client in enumerate(sessions):
            to = accounts[(n // SESSIONS + 1) % USERS].jid
            client.send(message(to, "x" * TEXT_BYTES, type="chat", id=f"large{n}"))
        peak = await _met(site)
        # One more of each, which none of them may get through now.
        for n, client in enumerate(sessions):
            client.send(message(witness.jid, f"{n}", type="chat", id=f"small{n}"))
        begun = time.monotonic()
        while time.monotonic() - begun < HELD_S:
            peak = max(peak, await asyncio.to_thread(node.metric, "antiphon_unsaved_bytes"))
            await asyncio.sleep(0.2)
        grown = node.memory_bytes() - before
        early = _numbers(witness)
        handled = [client.sm.acked for client in sessions if client.sm is not None]
    finally:
        site.store.resume()
    note("unsaved at most, Cassandra frozen", "MiB", peak / 2**20)
    note("memory of the node grew meanwhile by", "MiB", grown / 2**20)
    assert not early, f"{len(early)} were read above the limit"
    assert not any(handled), "acknowledged, and kept nowhere"
    assert peak <= UNSAVED_BYTES + SPARE_BYTES
    # Beside that a connection's buffer, which is as large as its largest stanza.
    assert grown < peak + len(sessions) * TEXT_BYTES + SLACK_BYTES
    await _all_handled(sessions)
    await witness.wait_for(lambda: len(_numbers(witness)) >= len(sessions), DONE_S, "all of them")
    assert sorted(_numbers(witness)) == list(range(len(sessions)))
    refused = [e for one in sessions for e in one.inbox if e.name == "message"]
    assert not refused, f"{len(refused)} were refused instead of held back: {refused[0]}"
    assert node.metric("antiphon_store_errors_total") == errors
    await _given(site, accounts)
    for client in (*sessions, witness):
        client.abort()


async def _of_one_home(site: Site) -> tuple[list[Account], Account]:
    """Users whose home is a, and one more: each node has a limit of its own."""
    people = await asyncio.to_thread(site.strangers, 4 * USERS)
    found = await homes(site, people)
    here = [one for one in people if found[one.jid].node == "a"]
    assert len(here) > USERS, "too few users live at a"
    return here[:USERS], here[USERS]


async def _sessions(site: Site, accounts: Sequence[Account]) -> list[Client]:
    """Many of each user, none of them available: what is for the user waits for him."""
    turns = asyncio.Semaphore(LOGINS)

    async def login(account: Account, number: int) -> Client:
        client = Quiet(site["a"].door, account)
        async with turns:
            await client.negotiate()
            await client.authenticate("PLAIN")
            await client.bind(f"r{number}")
            await client.sm_enable()
        return client

    logins = [login(account, n) for account in accounts for n in range(SESSIONS)]
    return list(await asyncio.gather(*logins))


async def _met(site: Site) -> float:
    """Waits until the limit is met; how much is unsaved then."""
    deadline = time.monotonic() + MET_S
    while True:
        unsaved = await asyncio.to_thread(site["a"].metric, "antiphon_unsaved_bytes")
        if unsaved > UNSAVED_BYTES:
            return unsaved
        assert time.monotonic() < deadline, f"the limit was not met: {unsaved / 2**20:.0f} MiB"
        await asyncio.sleep(0.2)


def _numbers(witness: Client) -> list[int]:
    return [int(e.body or "-1") for e in witness.inbox if e.name == "message"]


async def _all_handled(sessions: Sequence[Client]) -> None:
    deadline = time.monotonic() + DONE_S
    for client in sessions:
        assert client.sm is not None
        while (h := await client.sm_request()) < client.sm.sent:
            assert time.monotonic() < deadline, f"{h} of {client.sm.sent} are handled"
            await asyncio.sleep(0.2)


async def _given(site: Site, accounts: Sequence[Account]) -> None:
    """Every user comes and is given what waited for him, each once."""
    for at, account in enumerate(accounts):
        client = Quiet(site["c"].door, account)
        await client.login(f"r{SESSIONS - 1}")
        client.send(E("presence", ns.CLIENT))
        wanted = sorted(f"large{(at - 1) % USERS * SESSIONS + n}" for n in range(SESSIONS))
        await client.wait_for(
            lambda c=client: len(_ids(c)) >= SESSIONS,  # type: ignore[misc]
            DONE_S,
            f"{SESSIONS} messages",
        )
        await client.sync()
        assert sorted(_ids(client)) == wanted
        await client.close()


def _ids(client: Client) -> list[str]:
    return [e.id or "" for e in client.inbox if e.name == "message"]
