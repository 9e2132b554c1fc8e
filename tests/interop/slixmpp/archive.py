# SPDX-License-Identifier: Apache-2.0
"""slixmpp pages through an archive of 10,000 messages by every query.

Usage: archive.py [SCENARIO…]; all without. The variable INTEROP says where the server is and what
the archive holds, in JSON. Writes one JSON object a line: {"id", "outcome", "text"}.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import traceback
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

from reader import PAGE, TEXT, Facts, Reader, Row, connected, session
from slixmpp import JID, Message
from slixmpp.exceptions import IqError

SECONDS = 90.0
ROUNDS = 12
A_ROUND = 100
FACTS = Facts.read()

Rows = list[Row]
_known: Rows = []


def ids(rows: Rows) -> list[str]:
    """Their places in the archive."""
    return [row.id for row in rows]


async def everything(client: Reader) -> Rows:
    """The whole archive, read once by slixmpp's iterator."""
    if not _known:
        _known.extend(await client.iterated())
    return _known


def third(rows: Rows) -> tuple[dict[str, Any], Rows]:
    """The fields for the middle third by time, and what it holds."""
    start, end = rows[len(rows) // 3].at, rows[len(rows) * 2 // 3].at
    return {"start": start, "end": end}, [row for row in rows if start <= row.at <= end]


def among(rows: Rows, jid: JID) -> Rows:
    """Those with one person."""
    return [row for row in rows if row.is_with(jid)]


async def forwards() -> None:
    """Every conversation is there both ways, whole and in order, and nothing else is."""
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
    total = 0
    for peer in FACTS.peers:
        for way, count in (("in", peer.received), ("out", peer.sent)):
            start = f"{peer.name} {way}"
            expected = [f"{start} {n} {FACTS.words[n % len(FACTS.words)]}" for n in range(count)]
            assert [r.body for r in rows if r.body.startswith(f"{start} ")] == expected, start
            total += count
    assert len(rows) == len(set(ids(rows))) == total
    assert all(a.at <= b.at for a, b in pairwise(rows)), "stamps go back"


async def backwards() -> None:
    """By slixmpp's iterator, which gives the newest first."""
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        assert ids(await client.iterated(reverse=True)) == ids(rows)[::-1]


async def newest_first_by_flipped_pages() -> None:
    """`<flip-page/>` on every page (XEP-0313 #flipped)."""
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        found = await client.whole(is_back=True, is_flipped=True)
        assert ids(found) == ids(rows)[::-1]


async def with_one_person() -> None:
    """The field `with`, by the iterator."""
    peer = FACTS.peers[1]
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        found = await client.iterated(with_jid=peer.jid)
        assert len(found) == peer.received + peer.sent
        assert ids(found) == ids(among(rows, peer.jid))


async def between_two_moments() -> None:
    """The fields `start` and `end`, alone and with others."""
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        fields, expected = third(rows)
        assert ids(await client.iterated(**fields)) == ids(expected)
        late = [row for row in rows if row.at >= fields["end"]]
        assert ids(await client.iterated(start=fields["end"])) == ids(late)
        jid = FACTS.peers[1].jid
        found = await client.whole({**fields, "with": jid}, page=77, is_back=True)
        assert ids(found) == ids(among(expected, jid))


async def between_two_ids() -> None:
    """The fields `before-id` and `after-id`, which exclude their message."""
    async with session(FACTS, FACTS.owner) as client:
        rows = ids(await everything(client))
        fields = {"after_id": rows[1999], "before_id": rows[3000]}
        for is_back in (False, True):
            assert ids(await client.whole(fields, is_back=is_back)) == rows[2000:3000]
        page = await client.ask({}, max=10, before=rows[5000])
        assert ids(page.rows) == rows[4990:5000]


async def messages_by_their_ids() -> None:
    """The field `ids`, an error for one that is not there (XEP-0313 #query-uid-list)."""
    async with session(FACTS, FACTS.owner) as client:
        rows = ids(await everything(client))
        wanted = rows[5::97]
        assert ids(await client.whole({"ids": wanted}, page=40)) == wanted
        condition = ""
        try:
            await client.ask({"ids": [*wanted[:3], "nowhere"]})
        except IqError as error:
            condition = error.condition
        assert condition == "item-not-found", condition


async def full_text() -> None:
    """Words, beginnings, phrases, other scripts; alone and with every other filter."""
    fool, kent = FACTS.peers[2].jid, FACTS.peers[0].jid
    searches: dict[str, Callable[[str], bool]] = {
        "BORDO": lambda body: body.endswith(" bordó"),
        "dunkel*": lambda body: body.endswith(" dunkelgrün"),
        "kent ecarlate": lambda body: body.startswith("kent ") and body.endswith(" écarlate"),
        '"fool out 5"': lambda body: body.startswith("fool out 5 "),
        "东京": lambda body: body.endswith(" 东京塔"),
        "cordelia": lambda body: False,
    }
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        while not (await client.ask({TEXT: "amber"}, max=1)).is_stable:
            await asyncio.sleep(0.2)
        fields, inner = third(rows)
        for text, fits in searches.items():
            expected = [row for row in rows if fits(row.body)]
            assert ids(await client.whole({TEXT: text})) == ids(expected), text
            for jid in (fool, kent):
                narrow = among([row for row in inner if fits(row.body)], jid)
                more: dict[str, Any] = {TEXT: text, "with": jid, **fields}
                found = await client.whole(more, page=30, is_back=True)
                assert ids(found) == ids(narrow), text


async def fields_and_metadata() -> None:
    """The form that the server gives, and the ends of the archive (XEP-0313 #metadata)."""
    async with session(FACTS, FACTS.owner) as client:
        rows = await everything(client)
        form = await client["xep_0313"].get_fields()
        offered = set(form.get_fields())
        assert offered >= {"with", "start", "end", "before-id", "after-id", "ids", TEXT}
        ends = (await client["xep_0313"].get_archive_metadata())["mam_metadata"]
        for name, row in (("start", rows[0]), ("end", rows[-1])):
            assert (ends[name]["id"], ends[name]["timestamp"]) == (row.id, row.at), name


async def preferences() -> None:
    """What must never be archived is not, and everything else is (XEP-0441)."""
    async with session(FACTS, FACTS.accounts[2]) as client:
        prefs = client["xep_0441"]
        never = FACTS.accounts[1][0]
        await prefs.set_preferences("always", [], [never])
        default, always, forbidden = await prefs.get_preferences()
        assert (default, set(always), set(forbidden)) == ("always", set(), {never})
        for to in (never, FACTS.accounts[0][0]):
            client.send_message(mto=to, mbody=f"for {to}", mtype="chat")
        await client["xep_0030"].get_info(JID(client.boundjid.domain))  # behind the messages
        bodies = [row.body for row in await client.whole()]
        assert f"for {never}" not in bodies
        assert f"for {FACTS.accounts[0][0]}" in bodies
        await prefs.set_preferences("always", [], [])


async def markers_corrections_and_retractions() -> None:
    """They are in both archives; what was retracted is there no more (XEP-0424 #tombstones)."""
    async with (
        session(FACTS, FACTS.accounts[0], "one") as one,
        session(FACTS, FACTS.accounts[1], "two") as two,
    ):
        said = [one.make_message(two.boundjid, text, mtype="chat") for text in ("wrnog", "secret")]
        last = asyncio.ensure_future(two.wait_until("message_correction"))
        for message in said:
            message.send()
        correction = one["xep_0308"].correct_message(said[0], "wrong")
        await last
        retracted = asyncio.ensure_future(two.wait_until("message_retract"))
        retraction = one["xep_0424"].send_retraction(two.boundjid, said[1]["id"])
        await retracted
        marked = asyncio.ensure_future(one.wait_until("marker_displayed"))
        two["xep_0333"].send_marker(one.boundjid, correction["id"], "displayed", mtype="chat")
        assert (await marked)["displayed"]["id"] == correction["id"]
        for client in (one, two):
            rows = (await client.ask({}, max=5, before=True)).rows
            wrong, tombstone, corrected, retract, marker = (row.message for row in rows)
            assert wrong["id"] == said[0]["id"]
            assert (corrected["body"], corrected["replace"]["id"]) == ("wrong", said[0]["id"])
            assert tombstone["retracted"]["id"] == retraction["id"]
            assert not tombstone["body"]
            assert retract["retract"]["id"] == said[1]["id"]
            assert marker["displayed"]["id"] == correction["id"]


class Device:
    """What a client remembers from one session to the next: what it has shown, where it was."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.last = ""
        self.places: set[str] = set()
        self.shown: list[str] = []
        self.held: list[tuple[str, str]] | None = []

    def take(self, place: str, body: str) -> None:
        """Shows a message, if it is about this device's subject."""
        self.places.add(place)
        self.last = place
        if body.startswith(self.subject):
            self.shown.append(body)

    def live(self, message: Message) -> None:
        """A message as it comes; while the archive is read it waits."""
        place, body = message["stanza_id"]["id"], message["body"]
        if self.held is not None:
            self.held.append((place, body))
        elif place not in self.places:
            self.take(place, body)

    async def sync(self, client: Reader) -> None:
        """Reads what came behind the last message, or all, then what came meanwhile."""
        while True:
            behind = {"max": 30, "after": self.last} if self.last else {"max": PAGE}
            page = await client.ask({}, **behind)
            for row in page.rows:
                assert row.id not in self.places, "a page has what came before its id"
                self.take(row.id, row.body)
            if page.is_complete:
                break
        held, self.held = self.held or [], None
        for place, body in held:
            if place not in self.places:
                self.take(place, body)


async def a_client_that_comes_and_goes_sees_everything_once() -> None:
    """It leaves at random, every other time without a word, while somebody writes to it."""
    async with session(FACTS, FACTS.accounts[1], "writer") as writer:
        subject = f"over {random.randbytes(4).hex()}"
        device = Device(subject)
        reader, _ = FACTS.accounts[0]
        for turn in range(ROUNDS):
            device.held = []
            client = await connected(FACTS, FACTS.accounts[0], "reader")
            client.add_event_handler("message", device.live)
            client.send_presence()
            for number in range(turn * A_ROUND, (turn + 1) * A_ROUND):
                writer.send_message(mto=reader, mbody=f"{subject} {number}", mtype="chat")
            await device.sync(client)
            await asyncio.sleep(random.uniform(0, 0.06))
            client.del_event_handler("message", device.live)
            if turn % 2:
                client.abort()
            else:
                await client.disconnect()
        await writer["xep_0030"].get_info(JID(writer.boundjid.domain))  # behind the messages
        async with session(FACTS, FACTS.accounts[0], "reader") as client:
            await device.sync(client)
    assert device.shown == [f"{subject} {number}" for number in range(ROUNDS * A_ROUND)]


SCENARIOS: list[Callable[[], Awaitable[None]]] = [
    forwards,
    backwards,
    newest_first_by_flipped_pages,
    with_one_person,
    between_two_moments,
    between_two_ids,
    messages_by_their_ids,
    full_text,
    fields_and_metadata,
    preferences,
    markers_corrections_and_retractions,
    a_client_that_comes_and_goes_sees_everything_once,
]


async def main() -> None:
    """Runs what is wanted."""
    wanted = sys.argv[1:]
    for scenario in SCENARIOS:
        name = scenario.__name__
        if wanted and name not in wanted:
            continue
        outcome, text = "ok", ""
        try:
            await asyncio.wait_for(scenario(), SECONDS)
        except Exception:  # noqa: BLE001 (whatever went wrong is this scenario's result)
            outcome, text = "failed", traceback.format_exc()
        print(json.dumps({"id": name, "outcome": outcome, "text": text}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main())
