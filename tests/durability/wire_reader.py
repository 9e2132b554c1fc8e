# SPDX-License-Identifier: Apache-2.0
"""Reads archives and inboxes over the wire, as any client does."""

from __future__ import annotations

from support import ns
from support.client import LIVE, Client
from support.endpoint import Account, Endpoint
from support.xml import E, Element, iq

from .ledger import Row
from .sqlite_reader import number_of

MAM = "urn:xmpp:mam:2"
INBOX = "erlang-solutions.com:xmpp:inbox:0"
PAGE = 250


class Quiet(Client):
    """A client that logs nothing: there is too much of it."""

    def __init__(self, endpoint: Endpoint, account: Account) -> None:
        super().__init__(endpoint, account)
        LIVE.remove(self)

    def _note(self, way: str, text: str) -> None:
        """Nothing."""


async def query(client: Client, payload: Element, result_ns: str) -> tuple[list[Element], Element]:
    """Asks the own archive or inbox; the `<result/>` elements in order, and the answer's `<fin/>`.

    Raises `AssertionError` for an error, or a result that belongs to another query.
    """
    answer = await client.iq("set", payload=payload, timeout_s=60)
    assert answer.type == "result", f"refused: {answer}"
    results = []
    for element in client.drain():
        found = element.child("result", result_ns)
        if found is None:
            client.inbox.append(element)
            continue
        assert found.get("queryid") == payload.get("queryid"), f"of another query: {element}"
        results.append(found)
    return results, answer.at(("fin", result_ns))


async def page_after(
    client: Client, last: str | None, size: int = PAGE
) -> tuple[list[Element], bool]:
    """One page of the archive behind an id, or from the beginning; whether it is the last."""
    results, fin = await query(client, page_query(client, last, size), MAM)
    return results, fin.get("complete") == "true"


def page_query(client: Client, last: str | None, size: int) -> Element:
    """Asks for what came behind an id."""
    rsm = E("set", ns.RSM, E("max", None, str(size)), E("after", None, last) if last else None)
    return E("query", MAM, rsm, queryid=client.next_id())


async def part_of_page(client: Client, last: str | None, size: int) -> list[Element]:
    """What has come of a page when its first message has: some of it or all."""
    client.send(iq("set", page_query(client, last, size), id=client.next_id()))
    arrived = await client.expect(lambda e: e.has("result", MAM) or e.has("fin", MAM))
    found = [element.child("result", MAM) for element in [arrived, *client.drain()]]
    return [result for result in found if result is not None]


async def archive(endpoint: Endpoint, account: Account) -> list[Row]:
    """A whole archive, oldest first."""
    client = Quiet(endpoint, account)
    await client.login("reader")
    try:
        return await rows(client)
    finally:
        await client.close()


async def rows(client: Client) -> list[Row]:
    """The archive of a client's account, page by page; messages without body are left out."""
    found: list[Row] = []
    last: str | None = None
    while True:
        results, is_complete = await page_after(client, last)
        for result in results:
            last = result.get("id") or ""
            row = row_of(client.bare, result)
            if row is not None:
                found.append(row)
        if is_complete:
            return found
        assert results, "a page without messages that is not the last"


def row_of(owner: str, result: Element) -> Row | None:
    """What a `<result/>` says, `None` for a message without body."""
    stanza = result.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
    if stanza.body is None:
        return None
    is_out = (stanza.frm or "").partition("/")[0] == owner
    peer = stanza.to if is_out else stanza.frm
    return Row(
        result.get("id") or "", number_of((peer or "").partition("/")[0]), is_out, stanza.body
    )


async def inbox(endpoint: Endpoint, account: Account) -> dict[int, int]:
    """Unread messages by peer."""
    client = Quiet(endpoint, account)
    await client.login("reader")
    try:
        results, _ = await query(client, E("inbox", INBOX, queryid=client.next_id()), INBOX)
    finally:
        await client.close()
    found = {}
    for result in results:
        stanza = result.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
        ends = {(stanza.frm or "").partition("/")[0], (stanza.to or "").partition("/")[0]}
        (peer,) = ends - {account.jid}
        found[number_of(peer)] = int(result.get("unread") or 0)
    return found
