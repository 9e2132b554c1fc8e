# SPDX-License-Identifier: Apache-2.0
"""A slixmpp client that reads archives: by slixmpp's own iterator and, for what that does not know
(ids, flipped pages, text), by its stanzas."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import SubElement

from slixmpp import JID, ClientXMPP, Message
from slixmpp.xmlstream.handler import Collector
from slixmpp.xmlstream.matcher import StanzaPath

MAM = "urn:xmpp:mam:2"
TEXT = "{urn:xmpp:fulltext:0}fulltext"
PAGE = 250
PLUGINS = ("xep_0059", "xep_0308", "xep_0313", "xep_0333", "xep_0359", "xep_0424", "xep_0441")


@dataclass(frozen=True)
class Peer:
    """Somebody in the long archive; see `../history.py`."""

    jid: JID
    name: str
    received: int
    sent: int


@dataclass(frozen=True)
class Facts:
    """What the test says of the server and of the long archive."""

    address: str
    port: int
    owner: tuple[JID, str]
    """JID and password, as in `accounts`."""
    accounts: list[tuple[JID, str]]
    peers: list[Peer]
    words: list[str]

    @classmethod
    def read(cls) -> Facts:
        """From the environment."""
        told = json.loads(os.environ["INTEROP"])
        history = told["history"]
        return cls(
            told["address"],
            told["port"],
            _account(history["owner"]),
            [_account(one) for one in told["accounts"]],
            [Peer(JID(p["jid"]), p["name"], p["in"], p["out"]) for p in history["peers"]],
            history["words"],
        )


def _account(told: dict[str, str]) -> tuple[JID, str]:
    return JID(told["jid"]), told["password"]


@dataclass(frozen=True)
class Row:
    """One result."""

    id: str
    at: datetime
    body: str
    message: Message

    @classmethod
    def of(cls, result: Message) -> Row:
        """From the message that carries it."""
        forwarded = result["mam_result"]["forwarded"]
        inner = forwarded["stanza"]
        return cls(result["mam_result"]["id"], forwarded["delay"]["stamp"], inner["body"], inner)

    def is_with(self, jid: JID) -> bool:
        """Whether it belongs to the conversation with a bare JID."""
        return bool(jid in (self.message["from"].bare, self.message["to"].bare))


@dataclass(frozen=True)
class Page:
    """What one query gave."""

    rows: list[Row]
    first: str
    last: str
    is_complete: bool
    is_stable: bool


class Reader(ClientXMPP):
    """A client with the extensions that archives need."""

    def __init__(self, jid: JID, password: str) -> None:
        super().__init__(jid, password)
        for plugin in PLUGINS:
            self.register_plugin(plugin)

    async def ask(self, fields: dict[str, Any], *, is_flipped: bool = False, **rsm: Any) -> Page:
        """One query; fields by slixmpp's names, or by those of the form."""
        iq = self.make_iq_set()
        query = iq["mam"]
        query["queryid"] = iq["id"]
        for name, value in fields.items():
            if name in query.interfaces:
                query[name] = value
            else:
                query.set_custom_field(name, value)
        for name, value in rsm.items():
            query["rsm"][name] = value if value is True else str(value)
        if is_flipped:  # slixmpp reads it, but writes another name
            SubElement(query.xml, f"{{{MAM}}}flip-page")
        collector = Collector(iq["id"], StanzaPath(f"message/mam_result@queryid={iq['id']}"))
        self.register_handler(collector)
        try:
            fin = (await iq.send())["mam_fin"]  # type: ignore[no-untyped-call]
        finally:
            results = collector.stop()
        rows = [Row.of(result) for result in results if isinstance(result, Message)]
        end = fin["rsm"]
        is_complete = fin["complete"] == "true"
        return Page(rows, end["first"], end["last"], is_complete, fin["stable"] != "false")

    async def whole(
        self,
        fields: dict[str, Any] | None = None,
        *,
        page: int = PAGE,
        is_back: bool = False,
        is_flipped: bool = False,
    ) -> list[Row]:
        """All that a query finds, by pages; newest first when flipped, else oldest first."""
        found: list[Row] = []
        part: dict[str, Any] = {"before": True} if is_back else {}
        while True:
            got = await self.ask(fields or {}, is_flipped=is_flipped, max=page, **part)
            is_joined_before = is_back and not is_flipped
            found = [*got.rows, *found] if is_joined_before else [*found, *got.rows]
            if got.is_complete:
                return found
            assert got.rows, "an empty page that is not the last"
            part = {"before": got.first} if is_back else {"after": got.last}

    async def iterated(self, **how: Any) -> list[Row]:
        """The same by slixmpp's iterator, in its order; `how` as that takes it."""
        results = self["xep_0313"].iterate(rsm={"max": PAGE}, **how)
        return [Row.of(result) async for result in results]


@asynccontextmanager
async def session(
    facts: Facts, account: tuple[JID, str], resource: str = "archive"
) -> AsyncIterator[Reader]:
    """A connected client, closed at the end."""
    client = await connected(facts, account, resource)
    try:
        yield client
    finally:
        await client.disconnect()


async def connected(facts: Facts, account: tuple[JID, str], resource: str) -> Reader:
    """A connected client."""
    jid, password = account
    client = Reader(JID(f"{jid}/{resource}"), password)
    client.connect(facts.address, facts.port)
    await client.wait_until("session_start")
    return client
