# SPDX-License-Identifier: Apache-2.0
"""Reading archives (XEP-0313) and inboxes as a client does, for tests of any of their parts."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field

from . import ns
from .client import Client, fence
from .xml import E, Element, message

MAM_2 = "urn:xmpp:mam:2"
MAM_1 = "urn:xmpp:mam:1"
MAM_0 = "urn:xmpp:mam:0"
MAM_TMP = "urn:xmpp:mam:tmp"
ALL_MAM = (MAM_2, MAM_1, MAM_0, MAM_TMP)
FULLTEXT = "{urn:xmpp:fulltext:0}fulltext"
INBOX = "erlang-solutions.com:xmpp:inbox:0"
CONVERSATION = f"{INBOX}#conversation"
XEP_0430 = "urn:xmpp:inbox:1"

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Found:
    """One result: where it is in the archive, when it was put there, the message."""

    id: str
    stamp: str
    message: Element
    outer: Element

    @property
    def body(self) -> str | None:
        """The message's text."""
        return self.message.body


@dataclass(frozen=True)
class Page:
    """What one query gave: the results as they came, and the element that ended them."""

    results: list[Found]
    fin: Element

    @property
    def ids(self) -> list[str]:
        """Archive ids, in the order of the results."""
        return [one.id for one in self.results]

    @property
    def bodies(self) -> list[str | None]:
        """Texts, in the order of the results."""
        return [one.body for one in self.results]

    @property
    def is_complete(self) -> bool:
        """Whether nothing lies beyond."""
        return self.fin.get("complete") == "true"

    def rsm(self, name: str) -> str | None:
        """A child of the `<set/>` in the end of the answer."""
        found = self.fin.at(("set", ns.RSM)).child(name)
        return None if found is None else found.text

    @property
    def count(self) -> int | None:
        """How many there are in all, where the answer says so."""
        text = self.rsm("count")
        return None if text is None else int(text)


def form(dialect: str, fields: dict[str, object]) -> Element:
    """A submitted form; a list is a field of several values."""
    rows = [E("field", None, E("value", None, dialect), var="FORM_TYPE", type="hidden")]
    for var, value in fields.items():
        values = value if isinstance(value, list) else [value]
        rows.append(E("field", None, *(E("value", None, str(v)) for v in values), var=var))
    return E("x", ns.DATA_FORMS, *rows, type="submit")


def rsm(**parts: object) -> Element:
    """`rsm(max=5, before="")`: an empty text is an empty element."""
    return E("set", ns.RSM, *(E(name, None, str(value)) for name, value in parts.items()))


@dataclass
class Ask:
    """A query: fields of the form, the result set, and the rest."""

    fields: dict[str, object] = field(default_factory=dict)
    rsm: dict[str, object] = field(default_factory=dict)
    dialect: str = MAM_2
    is_flipped: bool = False
    to: str | None = None
    attrs: dict[str, str] = field(default_factory=dict)

    def payload(self, query_id: str | None) -> Element:
        """`<query/>`."""
        children = [rsm(**self.rsm)] if self.rsm else []
        if self.dialect == MAM_TMP:
            children = [*(E(k, None, str(v)) for k, v in self.fields.items()), *children]
        elif self.fields:
            children = [form(self.dialect, self.fields), *children]
        if self.is_flipped:
            children.append(E("flip-page", None))
        return E("query", self.dialect, *children, queryid=query_id, **self.attrs)


def _result(element: Element, dialect: str, query_id: str | None) -> Found | None:
    found = element.child("result", dialect)
    if element.name != "message" or found is None or found.get("queryid") != query_id:
        return None
    forwarded = found.at(("forwarded", ns.FORWARD))
    delay = forwarded.at(("delay", ns.DELAY))
    inner = forwarded.at(("message", ns.CLIENT))
    return Found(found.get("id") or "", delay.get("stamp") or "", inner, element)


def taken(client: Client, dialect: str, query_id: str | None) -> list[Found]:
    """Takes the results of a query that have come so far."""
    results: list[Found] = []
    rest: list[Element] = []
    for element in client.inbox:
        found = _result(element, dialect, query_id)
        if found is None:
            rest.append(element)
        else:
            results.append(found)
    client.inbox[:] = rest
    return results


async def refused(client: Client, ask: Ask) -> Element:
    """The error that a query is answered with; nothing came before it."""
    kind = "get" if ask.dialect == MAM_TMP else "set"
    query_id = f"q{next(_numbers)}"
    reply = await client.iq(kind, to=ask.to, payload=ask.payload(query_id))
    assert reply.type == "error", f"not refused: {reply}"
    assert not taken(client, ask.dialect, query_id)
    return reply


async def archive(client: Client, ask: Ask | None = None, **fields: object) -> Page:
    """One page of the client's archive: `archive(c, **{"with": jid})` or with an `Ask`."""
    ask = ask or Ask(fields)
    kind = "get" if ask.dialect == MAM_TMP else "set"
    query_id = f"q{next(_numbers)}"
    reply = await client.iq(kind, to=ask.to, payload=ask.payload(query_id))
    assert reply.type == "result", f"refused: {reply}"
    if ask.dialect == MAM_0:
        assert reply.payload is None

        def ends(element: Element) -> bool:
            fin = element.child("fin", MAM_0)
            return fin is not None and fin.get("queryid") == query_id

        fin = (await client.expect(ends)).at(("fin", MAM_0))
    else:
        name = "query" if ask.dialect == MAM_TMP else "fin"
        fin = reply.at((name, ask.dialect))
    return Page(taken(client, ask.dialect, query_id), fin)


async def whole(client: Client, size: int = 50, **fields: object) -> list[Found]:
    """Everything that a filter finds, page by page."""
    results: list[Found] = []
    part: dict[str, object] = {"max": size}
    while True:
        page = await archive(client, Ask(fields, part))
        results += page.results
        if page.is_complete:
            return results
        part = {"max": size, "after": page.rsm("last") or ""}


async def search(client: Client, text: str, name: str = FULLTEXT, **fields: object) -> list[str]:
    """Bodies that a search finds, once the index has caught up."""
    deadline = time.monotonic() + 10
    while True:
        page = await archive(client, Ask({**fields, name: text}))
        if page.fin.get("stable") != "false":
            return [body or "" for body in page.bodies]
        assert time.monotonic() < deadline, "the index does not catch up"
        await asyncio.sleep(0.05)


def chat(to: str, text: str, *children: Element, **attrs: object) -> Element:
    """A chat message with an id of its own."""
    return message(to, text, *children, **{"type": "chat", "id": f"m{next(_numbers)}", **attrs})


async def said(sender: Client, receiver: Client, *texts: str) -> list[Element]:
    """Sends chat messages to a full JID; what the receiver got."""
    for text in texts:
        sender.send(chat(receiver.jid, text))
    await fence(sender, receiver)
    got = [e for e in receiver.inbox if e.name == "message" and e.frm == sender.jid]
    receiver.inbox[:] = [e for e in receiver.inbox if e not in got]
    return got


async def numbered(sender: Client, receiver: Client, count: int) -> list[Found]:
    """The sender's archive after messages "0", "1" … to that client."""
    await said(sender, receiver, *(str(number) for number in range(count)))
    return (await archive(sender)).results


def place(element: Element, owner: str) -> str | None:
    """The id of a message in this owner's archive (XEP-0359)."""
    ids = [c.get("id") for c in element.all("stanza-id", ns.SID) if c.get("by") == owner]
    assert len(ids) <= 1, f"several ids of one archive: {element}"
    return ids[0] if ids else None


def without_place(element: Element) -> Element:
    """A received message without the ids that its recipient's archive gave it (XEP-0359)."""
    element.children[:] = [
        c
        for c in element.children
        if not (isinstance(c, Element) and c.tag == ("stanza-id", ns.SID) and c.get("by"))
    ]
    return element


@dataclass(frozen=True)
class Entry:
    """One conversation of an inbox (Erlang Solutions' protocol)."""

    unread: int
    stamp: str
    message: Element
    box: str
    is_read: bool
    is_archived: bool
    mute: str
    outer: Element

    @property
    def body(self) -> str | None:
        """The last message's text."""
        return self.message.body

    def peer(self, owner: str) -> str:
        """The bare JID of the other side."""
        frm = (self.message.frm or "").partition("/")[0]
        return (self.message.to or "").partition("/")[0] if frm == owner else frm


@dataclass(frozen=True)
class Inbox:
    """What one question for the inbox gave."""

    entries: list[Entry]
    fin: Element

    def number(self, name: str) -> int:
        """`count`, `unread-messages` or `active-conversations`."""
        return int(self.fin.at(name).text)

    def rsm(self, name: str) -> str | None:
        """A child of the `<set/>`."""
        found = self.fin.at(("set", ns.RSM)).child(name)
        return None if found is None else found.text


def _entry(element: Element, query_id: str) -> Entry | None:
    found = element.child("result", INBOX)
    if element.name != "message" or found is None or found.get("queryid") != query_id:
        return None
    forwarded = found.at(("forwarded", ns.FORWARD))
    return Entry(
        unread=int(found.get("unread") or "-1"),
        stamp=forwarded.at(("delay", ns.DELAY)).get("stamp") or "",
        message=forwarded.at(("message", ns.CLIENT)),
        box=found.at("box").text,
        is_read=found.at("read").text == "true",
        is_archived=found.at("archive").text == "true",
        mute=found.at("mute").text,
        outer=element,
    )


def inbox_query(query_id: str, fields: dict[str, object], part: dict[str, object]) -> Element:
    """`<inbox/>`."""
    children = [form(INBOX, fields)] if fields else []
    if part:
        children.append(rsm(**part))
    return E("inbox", INBOX, *children, queryid=query_id)


async def inbox(client: Client, part: dict[str, object] | None = None, **fields: object) -> Inbox:
    """The client's inbox, or a page of it."""
    query_id = f"q{next(_numbers)}"
    reply = await client.iq("set", payload=inbox_query(query_id, fields, part or {}))
    assert reply.type == "result", f"refused: {reply}"
    entries: list[Entry] = []
    rest: list[Element] = []
    for element in client.inbox:
        entry = _entry(element, query_id)
        if entry is None:
            rest.append(element)
        else:
            entries.append(entry)
    client.inbox[:] = rest
    return Inbox(entries, reply.at(("fin", INBOX)))


async def unread(client: Client) -> dict[str, int]:
    """Unread messages by conversation."""
    found = await inbox(client, box="all")
    return {entry.peer(client.bare): entry.unread for entry in found.entries}


async def set_entry(client: Client, jid: str, **properties: object) -> Element:
    """Changes a conversation; the answer."""
    children = (E(name, None, str(value)) for name, value in properties.items())
    return await client.iq("set", payload=E("query", CONVERSATION, *children, jid=jid))


def marker(to: str, id_: str, name: str = "displayed") -> Element:
    """A chat marker (XEP-0333)."""
    return message(to, E(name, ns.MARKERS, id=id_), type="chat", id=f"m{next(_numbers)}")
