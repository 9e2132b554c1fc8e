# SPDX-License-Identifier: Apache-2.0
"""Inbox of Erlang Solutions: conversations, each with its last message, unread count and box.

`erlang-solutions.com:xmpp:inbox:0` as MongooseIM has it. Entries are kept in the core with the
messages that change them, and put on the asker's stream there. The counts of an answer are those of
all conversations that the query finds, not only of the page.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from antiphon.storage.model import InboxEntry, InboxQuery
from antiphon.xep._declare import Context, E, Element, Extension, Iq, StanzaError
from antiphon.xep._mam_query import not_before, page_of, result_set
from antiphon.xmpp import ns
from antiphon.xmpp.forms import Field, Form, Option
from antiphon.xmpp.jid import Jid, JidError
from antiphon.xmpp.rsm import PageRequest
from antiphon.xmpp.stamp import parse_stamp, utc_ms_text
from antiphon.xmpp.stanza import Session

BoxName = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,32}$")]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the inbox."""

    boxes: Annotated[
        tuple[BoxName, ...],
        Meta(description="Boxes beside inbox, archive and bin.", max_length=32),
    ] = ()


extension = Extension(
    title="Inbox of Erlang Solutions",
    features=[ns.INBOX],
    owner_features=[ns.INBOX],
    requires=[313],
    config=Options,
    core="inbox",
    namespace=ns.INBOX,
)

MOST_ENTRIES: Final = 1_000
"""Conversations in one answer."""

BIN: Final = "bin"
OWN_BOXES: Final = ("inbox", "archive", BIN)
ALL: Final = "all"
"""In a query, any box."""

PROPERTIES: Final = ("box", "archive", "mute", "read")

_WHOLE: Final = re.compile(r"\d{1,9}", re.ASCII)


class Change(Struct, frozen=True, kw_only=True):
    """What a client changes of a conversation; None stays as it is."""

    box: str | None = None
    muted_until: datetime | Literal["never"] | None = None
    is_read: bool | None = None


def boxes(ctx: Context) -> tuple[str, ...]:
    """The names of all boxes."""
    return (*OWN_BOXES, *extension.options(ctx, Options).boxes)


@extension.iq("get", ns.INBOX, "query", to="own")
def fields(ctx: Context, _iq: Iq) -> Element:
    """The fields of a query."""
    options = tuple(Option(name, name) for name in (ALL, *boxes(ctx)))
    form = Form(
        kind="form",
        form_type=ns.INBOX,
        fields=(
            Field(var="start"),
            Field(var="end"),
            Field(
                var="order",
                kind="list-single",
                values=("desc",),
                options=(Option("asc", "asc"), Option("desc", "desc")),
            ),
            Field(var="hidden_read", values=("false",)),
            Field(var="box", kind="list-single", options=options),
            Field(var="archive", kind="boolean"),
        ),
    )
    return E("query", ns.INBOX, form.to_element())


@extension.iq("set", ns.INBOX, "inbox", to="own")
async def inbox(ctx: Context, iq: Iq) -> Element:
    """Conversations, one message each, then the answer with the counts of all."""
    payload = iq.payload
    query = read_query(payload, boxes(ctx))
    request = PageRequest.of(payload)
    if request is not None and request.index is not None:
        raise StanzaError("bad-request", "index: pages are not found by index")
    page = await ctx.store.inbox.page(
        iq.to.bare,
        _session(iq),
        query,
        page_of(request, MOST_ENTRIES),
        form="esl",
        query_id=payload.get("queryid") or iq.stanza.id,
    )
    return E(
        "fin",
        ns.INBOX,
        result_set(page.first, page.last, page.count),
        E("count", ns.INBOX, str(page.count)),
        E("unread-messages", ns.INBOX, str(page.unread)),
        E("active-conversations", ns.INBOX, str(page.active)),
    )


@extension.iq("set", ns.INBOX, "empty-bin", to="own", ordered=True)
async def empty_bin(ctx: Context, iq: Iq) -> Element:
    """Deletes the conversations in the bin, and says how many."""
    count = await ctx.store.inbox.empty_bin(iq.to.bare)
    return E("empty-bin", ns.INBOX, E("num", ns.INBOX, str(count)))


@extension.iq("get", ns.INBOX_CONVERSATION, "query", to="own")
async def conversation(ctx: Context, iq: Iq) -> Element:
    """The properties of one conversation; without an address, what properties there are."""
    payload = iq.payload
    if payload.get("jid") is None:
        options = tuple(Option(name, name) for name in boxes(ctx))
        form = Form(
            kind="form",
            form_type=ns.INBOX_CONVERSATION,
            fields=(
                Field(var="archive", kind="boolean", values=("false",)),
                Field(var="read", kind="boolean", values=("false",)),
                Field(var="mute", values=("0",)),
                Field(var="box", kind="list-single", options=options),
            ),
        )
        return E("query", ns.INBOX_CONVERSATION, form.to_element())
    entry = await ctx.store.inbox.entry(iq.to.bare, _peer(payload))
    if entry is None:
        raise StanzaError("item-not-found", "there is no such conversation")
    is_complete = _flag("complete", payload.get("complete") or "false")
    return E(
        "query",
        ns.INBOX_CONVERSATION,
        _forwarded(entry) if is_complete else None,
        *_properties(entry, ctx.now()),
    )


@extension.iq("set", ns.INBOX_CONVERSATION, "query", to="own", ordered=True)
async def change_conversation(ctx: Context, iq: Iq) -> None:
    """Changes properties, all or none. All of the user's sessions get the new ones."""
    payload = iq.payload
    peer = _peer(payload)
    change = read_change(payload, boxes(ctx), ctx.now())
    await ctx.store.inbox.set(
        iq.to.bare,
        peer,
        box=change.box,
        muted_until=change.muted_until,
        is_read=change.is_read,
    )


@extension.iq("set", ns.INBOX_CONVERSATION, "reset", to="own", ordered=True)
async def reset(ctx: Context, iq: Iq) -> None:
    """Everything in a conversation is read. COMPAT(clients of the protocol's first version)."""
    await ctx.store.inbox.set(iq.to.bare, _peer(iq.payload), is_read=True)


def _session(iq: Iq) -> Session:
    if iq.session is None:
        raise StanzaError("not-allowed", "entries go to a session of this server")
    return iq.session


def _peer(payload: Element) -> Jid:
    text = payload.get("jid")
    if not text:
        raise StanzaError("bad-request", "jid: an address is needed")
    try:
        return Jid(text).bare
    except JidError as err:
        raise StanzaError("bad-request", f"jid: not an address: {err}") from err


# Queries.


def read_query(payload: Element, known_boxes: tuple[str, ...]) -> InboxQuery:
    """What a form asks for; without one, every conversation that is not in the bin.

    Raises `bad-request` that names field and value for what is not known.
    """
    element = payload.find(ns.DATA, "x")
    if element is None:
        return InboxQuery()
    sent = Form.parse(element)
    if sent.kind != "submit":
        raise StanzaError("bad-request", "the form is not a submission")
    if sent.form_type not in (None, ns.INBOX):
        raise StanzaError("bad-request", f"FORM_TYPE is not {ns.INBOX}")
    found: dict[str, object] = {}
    for field in sent.fields:
        name, value = field.var or "", field.values[0] if field.values else ""
        reader = _FIELDS.get(name)
        if reader is None or len(field.values) > 1:
            raise _bad(name, ", ".join(field.values))
        if not value:
            continue
        found.update(reader(name, value))
    box = found.get("box")
    if box is not None and box not in (*known_boxes, ALL):
        raise _bad("box", str(box))
    by_flag = found.pop("by_flag", None)
    found.setdefault("box", by_flag)
    return msgspec.convert(found, InboxQuery)


def _bad(name: str, value: str) -> StanzaError:
    return StanzaError("bad-request", f"field {name[:64]} cannot be '{value[:64]}'")


def _moment(name: str, value: str) -> Mapping[str, object]:
    try:
        moment = parse_stamp(value)
    except ValueError as err:
        raise _bad(name, value) from err
    return {name: not_before(moment) if name == "start" else moment}


def _order(name: str, value: str) -> Mapping[str, object]:
    if value not in ("asc", "desc"):
        raise _bad(name, value)
    return {"is_ascending": value == "asc"}


def _hidden_read(name: str, value: str) -> Mapping[str, object]:
    return {"is_unread_only": _flag(name, value)}


def _box(_name: str, value: str) -> Mapping[str, object]:
    return {"box": value}


def _archive(name: str, value: str) -> Mapping[str, object]:
    return {"by_flag": "archive" if _flag(name, value) else "inbox"}


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false", "1", "0"):
        raise _bad(name, value)
    return value in ("true", "1")


_FIELDS: Final[dict[str, Callable[[str, str], Mapping[str, object]]]] = {
    "start": _moment,
    "end": _moment,
    "order": _order,
    "hidden_read": _hidden_read,
    "box": _box,
    "archive": _archive,
}


# Properties.


def read_change(payload: Element, known_boxes: tuple[str, ...], now: datetime) -> Change:
    """What the children of a request change. Raises `bad-request` if any of them cannot be."""
    texts: dict[str, str] = {}
    for child in payload.children:
        if child.ns != ns.INBOX_CONVERSATION or child.name not in PROPERTIES:
            raise StanzaError("bad-request", f"{child.name[:64]} is no property")
        if child.name in texts:
            raise StanzaError("bad-request", f"{child.name} stands there twice")
        texts[child.name] = child.text.strip()
    if not texts:
        raise StanzaError("bad-request", f"nothing to change; one of {', '.join(PROPERTIES)}")
    box: str | None = None
    if "archive" in texts:
        box = "archive" if _flag("archive", texts["archive"]) else "inbox"
    if "box" in texts:
        box = texts["box"]
        if box not in known_boxes:
            raise _bad("box", box)
    return Change(
        box=box,
        muted_until=_mute(texts["mute"], now) if "mute" in texts else None,
        is_read=_flag("read", texts["read"]) if "read" in texts else None,
    )


def _mute(text: str, now: datetime) -> datetime | Literal["never"]:
    """The end of a mute of so many seconds; 0 ends it."""
    if not _WHOLE.fullmatch(text):
        raise _bad("mute", text)
    seconds = int(text)
    return now + timedelta(seconds=seconds) if seconds else "never"


def _properties(entry: InboxEntry, now: datetime) -> tuple[Element, ...]:
    def flag(is_so: bool) -> str:
        return "true" if is_so else "false"

    is_muted = entry.muted_until is not None and entry.muted_until > now
    values = {
        "box": entry.box,
        "archive": flag(entry.box == "archive"),
        "mute": utc_ms_text(entry.muted_until) if is_muted and entry.muted_until else "0",
        "read": flag(entry.unread == 0),
    }
    return tuple(E(name, ns.INBOX_CONVERSATION, value) for name, value in values.items())


def _forwarded(entry: InboxEntry) -> Element:
    delay = E("delay", ns.DELAY, stamp=utc_ms_text(entry.at))
    return E("forwarded", ns.FORWARD, delay, entry.message)
