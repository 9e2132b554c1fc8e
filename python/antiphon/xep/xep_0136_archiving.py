# SPDX-License-Identifier: Apache-2.0
"""XEP-0136 Message Archiving 1.3.1: old clients read the history, too.

An adapter on the archive of XEP-0313, which only reads: a collection is what was said with one
contact on one UTC day. Removing follows the rule of that archive (XEP-0313 #retention): only the
oldest messages of a conversation can go, so that no holes are left. Automatic archiving is the
default of XEP-0441, for the account and for good. No manual upload, no replication, no
off-the-record negotiation.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from antiphon.storage.model import ArchiveQuery, ArchiveRow, Collection, PageQuery
from antiphon.xep._declare import Context, E, Element, Iq, StanzaError, Xep
from antiphon.xep._mam_query import not_before, page_of, result_set
from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid, JidError
from antiphon.xmpp.rsm import PageRequest
from antiphon.xmpp.stamp import parse_stamp, utc_ms_text

xep = Xep(
    136,
    version="1.3.1",
    title="Message Archiving",
    features=[f"{ns.ARCHIVE}:auto", f"{ns.ARCHIVE}:manage"],
    requires=[59, 313, 441],
    status="partial",
    note="reads the archive of XEP-0313: no upload, replication, or off-the-record negotiation",
)

AT_ONCE: Final = 1_000
"""Collections that are read at once."""

MOST_COLLECTIONS: Final = 20_000
"""Collections that one request looks at."""

DAY: Final = timedelta(days=1)


@xep.iq("get", ns.ARCHIVE, "list", to="own")
async def list_collections(ctx: Context, iq: Iq) -> Element:
    """Collections in chronological order, as empty `<chat/>` (§7.1)."""
    wanted = _Wanted(iq.payload)
    page = page_of(PageRequest.of(iq.payload), ctx.host.config.archive.page_max)
    found: list[Collection] = []
    is_inside = page.after is None
    has_seen_end = page.before is None
    query = await _from_day_of(ctx, iq.to.bare, wanted.query, page.after)
    async for one in _collections(ctx, iq.to.bare, query):
        if one.id == page.before:
            has_seen_end = True
            break
        if is_inside and wanted.matches(one.with_jid):
            if not page.is_from_end and len(found) >= page.max:
                break
            found.append(one)
            if page.is_from_end:
                del found[: max(0, len(found) - page.max)]
        is_inside = is_inside or one.id == page.after
    if not (is_inside and has_seen_end):
        raise StanzaError("item-not-found")
    chats = (_chat(one.with_jid, one.start) for one in found)
    last = result_set(found[0].id, found[-1].id, None) if found else None
    return E("list", ns.ARCHIVE, *chats, last)


@xep.iq("get", ns.ARCHIVE, "retrieve", to="own")
async def retrieve(ctx: Context, iq: Iq) -> Element:
    """The messages of one collection (§7.2)."""
    payload = iq.payload
    jid, start = _with(payload), _moment(payload, "start")
    if jid is None or start is None:
        raise StanzaError("bad-request", "with and start name a collection")
    midnight, end = _day(start)
    query = ArchiveQuery(with_jid=jid, start=midnight, end=end)
    owner = iq.to.bare
    first = (await ctx.store.archive.rows(owner, query, PageQuery(max=1))).rows
    if not first:
        raise StanzaError("item-not-found")
    page = page_of(PageRequest.of(payload), ctx.host.config.archive.page_max)
    rows = (await ctx.store.archive.rows(owner, query, page)).rows
    count = await ctx.store.archive.count(owner, query, AT_ONCE)
    # The time of a message is told from that of the one before it; at the beginning of a later page
    # the client need not have that one.
    is_beginning = bool(rows) and rows[0].id == first[0].id
    messages = _messages(rows, first[0].at if is_beginning else None)
    first_id, last_id = (rows[0].id, rows[-1].id) if rows else (None, None)
    return _chat(jid, first[0].at, *messages, result_set(first_id, last_id, count))


@xep.iq("set", ns.ARCHIVE, "remove", to="own", ordered=True)
async def remove(ctx: Context, iq: Iq) -> None:
    """Removes collections, the oldest of a conversation or of all (§7.3)."""
    payload = iq.payload
    if payload.get("open") in ("true", "1"):
        # Nothing is ever being recorded apart from what is archived already.
        raise StanzaError("item-not-found")
    wanted = _Wanted(payload)
    jid, start, end = wanted.query.with_jid, wanted.query.start, wanted.query.end
    if jid is not None and (jid.local is None or jid.resource is not None):
        raise StanzaError("feature-not-implemented", "conversations are removed by bare address")
    if jid is not None and start is not None and end is None:
        # A single collection (§7.3, example 48).
        start, end = _day(start)
    owner = iq.to.bare
    one = PageQuery(max=1)
    hit = ArchiveQuery(with_jid=jid, start=start, end=end)
    if not (await ctx.store.archive.rows(owner, hit, one)).rows:
        raise StanzaError("item-not-found")
    if start is not None:
        older = ArchiveQuery(with_jid=jid, end=start - timedelta(milliseconds=1))
        if (await ctx.store.archive.rows(owner, older, one)).rows:
            raise StanzaError("not-allowed", "only the oldest messages can be removed")
    # `end` is part of what goes, the bound of a purge is not.
    before = None if end is None else end + timedelta(milliseconds=1)
    await ctx.store.archive.purge(owner, jid, before)


@xep.iq("get", ns.ARCHIVE, "pref", to="own")
async def get_pref(ctx: Context, iq: Iq) -> Element:
    """The preferences of XEP-0441, in the words of this one (§2.3)."""
    prefs = await ctx.store.archive.prefs(iq.to.bare)
    is_on = prefs.default != "never"
    save = "message" if is_on else "false"
    items = [
        E("item", ns.ARCHIVE, jid=str(jid), otr="concede", save=mode)
        for mode, jids in (("message", prefs.always), ("false", prefs.never))
        for jid in jids
    ]
    uses = {"auto": "prefer" if is_on else "concede", "local": "concede", "manual": "forbid"}
    return E(
        "pref",
        ns.ARCHIVE,
        E("auto", ns.ARCHIVE, save="true" if is_on else "false", scope="global"),
        E("default", ns.ARCHIVE, otr="concede", save=save),
        *items,
        *(E("method", ns.ARCHIVE, type=kind, use=use) for kind, use in uses.items()),
    )


@xep.iq("set", ns.ARCHIVE, "auto", to="own", ordered=True)
async def set_auto(ctx: Context, iq: Iq) -> None:
    """Turns archiving on or off (§6)."""
    await _set_auto(ctx, iq, iq.payload)


@xep.iq("set", ns.ARCHIVE, "pref", to="own", ordered=True)
async def set_pref(ctx: Context, iq: Iq) -> None:
    """Takes `<auto/>` alone; the rest is told by XEP-0441."""
    children = iq.payload.children
    if len(children) != 1 or (children[0].ns, children[0].name) != (ns.ARCHIVE, "auto"):
        raise StanzaError("feature-not-implemented", "only auto can be set")
    await _set_auto(ctx, iq, children[0])


async def _set_auto(ctx: Context, iq: Iq, auto: Element) -> None:
    save = auto.get("save")
    if save not in ("true", "false", "1", "0"):
        raise StanzaError("bad-request", "save: not a boolean")
    is_on = save in ("true", "1")
    prefs = await ctx.store.archive.prefs(iq.to.bare)
    if is_on == (prefs.default != "never"):
        return
    if auto.get("scope") != "global":
        # An archive is one for all streams.
        raise StanzaError("feature-not-implemented", "only the scope 'global' can be changed")
    default = "always" if is_on else "never"
    await ctx.store.archive.set_prefs(iq.to.bare, default, prefs.always, prefs.never)


class _Wanted:
    """Which collections `<list/>` and `<remove/>` are about (§10.1)."""

    def __init__(self, payload: Element) -> None:
        self._jid = _with(payload)
        self._is_exact = payload.get("exactmatch") in ("true", "1")
        start, end = _moment(payload, "start"), _moment(payload, "end")
        jid = None if self._is_whole_domain else self._jid
        self.query = ArchiveQuery(
            with_jid=jid, start=None if start is None else not_before(start), end=end
        )

    @property
    def _is_whole_domain(self) -> bool:
        jid = self._jid
        return jid is not None and jid.local is None and jid.is_bare and not self._is_exact

    def matches(self, jid: Jid) -> bool:
        """Whether a conversation with this address is meant; the rest is in the query."""
        return not self._is_whole_domain or (
            self._jid is not None and jid.domain == self._jid.domain
        )


async def _from_day_of(
    ctx: Context, owner: Jid, query: ArchiveQuery, after: str | None
) -> ArchiveQuery:
    """The query from the day of this message on: behind it there is more of collections that began
    before it."""
    if after is None:
        return query
    rows = (await ctx.store.archive.rows(owner, ArchiveQuery(ids=(after,)), PageQuery(max=1))).rows
    if not rows:
        raise StanzaError("item-not-found")
    midnight, _ = _day(rows[0].at)
    start = midnight if query.start is None else max(midnight, query.start)
    return msgspec.structs.replace(query, start=start)


async def _collections(ctx: Context, owner: Jid, query: ArchiveQuery) -> AsyncIterator[Collection]:
    """All collections of a query, oldest first, as few as are looked at."""
    seen: set[tuple[Jid, str]] = set()
    for _ in range(MOST_COLLECTIONS // AT_ONCE):
        found = await ctx.store.archive.collections(owner, query, AT_ONCE)
        for one in found:
            # Behind its first message a collection goes on, and would be found again.
            key = one.with_jid, one.start.astimezone(UTC).strftime("%Y-%m-%d")
            if key not in seen:
                seen.add(key)
                yield one
        if len(found) < AT_ONCE:
            return
        query = msgspec.structs.replace(query, after_id=found[-1].id)
    raise StanzaError("resource-constraint", "too many collections; ask for a shorter time")


def _with(payload: Element) -> Jid | None:
    text = payload.get("with")
    if not text:
        return None
    try:
        return Jid(text)
    except JidError as err:
        raise StanzaError("bad-request", f"with: not an address: {err}") from err


def _moment(payload: Element, name: str) -> datetime | None:
    text = payload.get(name)
    if not text or text.startswith("0000-"):
        # The year that the text uses for "before everything" (§7.3, example 51).
        return None
    try:
        return parse_stamp(text)
    except ValueError as err:
        raise StanzaError("bad-request", f"{name}: {err}") from err


def _day(moment: datetime) -> tuple[datetime, datetime]:
    """The first and the last moment of its UTC day."""
    midnight = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight, midnight + DAY - timedelta(milliseconds=1)


def _chat(jid: Jid, start: datetime, *children: Element) -> Element:
    """`<chat/>`; collections never change but by growing, so their version is always the first."""
    attrs = {"with": str(jid), "start": utc_ms_text(start), "version": "0"}
    return Element("chat", ns.ARCHIVE, attrs, list(children))


def _messages(rows: tuple[ArchiveRow, ...], start: datetime | None) -> list[Element]:
    """`<from/>` and `<to/>` with the bodies; messages that say nothing are left out (§4.6)."""
    found: list[Element] = []
    last = start
    for row in rows:
        bodies = [
            E("body", ns.ARCHIVE, child.text)
            for child in row.message.element.children
            if (child.ns, child.name) == (ns.CLIENT, "body")
        ]
        if not bodies:
            continue
        name = "to" if row.is_out else "from"
        if last is None:
            found.append(E(name, ns.ARCHIVE, *bodies, utc=utc_ms_text(row.at)))
        else:
            # Whole seconds whose sum stays true.
            secs = int(row.at.timestamp()) - int(last.timestamp())
            found.append(E(name, ns.ARCHIVE, *bodies, secs=max(0, secs)))
        last = row.at
    return found
