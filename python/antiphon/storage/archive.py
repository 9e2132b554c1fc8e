# SPDX-License-Identifier: Apache-2.0
"""Archives (XEP-0313) and inboxes: part of `storage.api`.

Ids are texts that clients see (XEP-0359), good for one owner's archive only. One that names no
message of it raises `item-not-found`, wherever it stands. With the archive off for the owner's
domain, pages, preferences and everything of the inbox raise `service-unavailable`.

What is archived, and what a message does to an inbox, is decided in the core. It is on where a
feature with `core="mam"` (XEP-0313) and one with `core="inbox"` are.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from antiphon.storage.model import (
    ArchiveEnd,
    ArchiveEnds,
    ArchivePage,
    ArchivePrefs,
    ArchiveQuery,
    ArchiveRow,
    ArchiveRows,
    Collection,
    InboxEntry,
    InboxPage,
    InboxQuery,
    PageForm,
    PageQuery,
)
from antiphon.storage.part import Part, as_type
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import from_ms
from antiphon.xmpp.stanza import Session

InboxForm = Literal["esl", "xep0430", "xep0430-messages"]


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else max(0, int(moment.timestamp() * 1000))


def _filter(query: ArchiveQuery) -> tuple[object, ...]:
    return (
        query.with_jid,
        _ms(query.start),
        _ms(query.end),
        query.after_id,
        query.before_id,
        None if query.ids is None else list(query.ids),
        query.text,
        not query.has_groupchat,
    )


def _slice(page: PageQuery) -> tuple[object, ...]:
    return (page.after, page.before, page.is_from_end, page.max)


class Archive(Part):
    """Archives (XEP-0313)."""

    async def page(
        self,
        owner: Jid,
        session: Session,
        query: ArchiveQuery,
        page: PageQuery,
        form: PageForm,
    ) -> ArchivePage:
        """Puts a page on the queue of `session` as `<result/>` messages; done when all of it is
        there, so an answer sent afterwards comes behind it.

        Waits for room in the session's queue. The page may end before `page.max` messages where
        they are large. With `page.max` 0 it is only checked what the query names, and counted if
        the form says so. A page without `with_jid`, `text`
        and `ids` counts as read: what of it waits as offline messages is not given again.

        Raises `bad-request` with a text for a search that is none, `recipient-unavailable` when
        the session ends, `resource-constraint` when its client does not read.
        """
        look = (form.ns, form.query_id, form.is_flipped, form.has_count)
        given = (owner, session, _filter(query), _slice(page), look)
        first, last, count, is_complete, is_stable = as_type(
            tuple, await self._link.call("archive.page", *given)
        )
        return ArchivePage(first, last, count, is_complete, is_stable)

    async def rows(self, owner: Jid, query: ArchiveQuery, page: PageQuery) -> ArchiveRows:
        """A page as values, oldest first. Nothing counts as read by it."""
        given = (owner, _filter(query), _slice(page))
        rows, is_complete = as_type(tuple, await self._link.call("archive.rows", *given))
        found = (ArchiveRow(id_, from_ms(ms), is_out, message) for id_, ms, is_out, message in rows)
        return ArchiveRows(tuple(found), is_complete)

    async def count(self, owner: Jid, query: ArchiveQuery, most: int) -> int | None:
        """How many messages a query finds; None above `most`, or where counting would be
        reading."""
        found = await self._link.call("archive.count", owner, _filter(query), most)
        return None if found is None else as_type(int, found)

    async def ends(self, owner: Jid) -> ArchiveEnds | None:
        """The first and the last message that the owner can see; None: the archive is empty."""
        found = await self._link.call("archive.ends", owner)
        if found is None:
            return None
        (first, first_ms), (last, last_ms) = as_type(tuple, found)
        return ArchiveEnds(ArchiveEnd(first, from_ms(first_ms)), ArchiveEnd(last, from_ms(last_ms)))

    async def collections(
        self, owner: Jid, query: ArchiveQuery, limit: int
    ) -> tuple[Collection, ...]:
        """Conversations by UTC day (XEP-0136), by their first message of the day, oldest first, at
        most `limit` (1 to 1,000). `ids` and `text` of the query are not looked at."""
        found = await self._link.call("archive.collections", owner, _filter(query), limit)
        return tuple(Collection(jid, id_, from_ms(ms)) for jid, id_, ms in as_type(list, found))

    async def purge(
        self, owner: Jid, with_jid: Jid | None = None, before: datetime | None = None
    ) -> None:
        """Deletes messages for good, of one conversation or of all, from before a moment or all;
        done when committed. The inbox keeps its entries."""
        await self._link.call("archive.purge", owner, with_jid, _ms(before))

    async def prefs(self, owner: Jid) -> ArchivePrefs:
        """The owner's preferences (XEP-0441), the server's default where he has set none."""
        return _prefs(await self._link.call("archive.prefs_get", owner))

    async def set_prefs(
        self, owner: Jid, default: str, always: Sequence[Jid], never: Sequence[Jid]
    ) -> ArchivePrefs:
        """Sets them, from the very next message, and gives them back: sorted, without doubles.
        `default` is always, roster or never. Raises `resource-constraint` above 1,000
        addresses."""
        given = (owner, default, list(always), list(never))
        return _prefs(await self._link.call("archive.prefs_set", *given))


def _prefs(found: object) -> ArchivePrefs:
    default, always, never = as_type(tuple, found)
    return ArchivePrefs(default, tuple(always), tuple(never))


class Inbox(Part):
    """Conversations with their unread messages (Erlang Solutions' inbox, XEP-0430)."""

    async def page(
        self,
        owner: Jid,
        session: Session,
        query: InboxQuery,
        page: PageQuery,
        *,
        form: InboxForm,
        query_id: str | None = None,
    ) -> InboxPage:
        """Puts conversations on the queue of `session`, one message each, in the order asked for;
        done when all are there. `form` says how they look: `esl`; `xep0430` without, or
        `xep0430-messages` with the last messages. The counts are those of all that the query
        finds; `page.max` 0: only these. `page.after` and `page.before` are positions that an
        earlier page gave. Errors as in `Archive.page`."""
        which = (_ms(query.start), _ms(query.end), query.is_unread_only, query.box)
        given = (owner, session, query_id, which, query.is_ascending, _slice(page), form)
        first, last, count, unread, active, is_complete = as_type(
            tuple, await self._link.call("inbox.page", *given)
        )
        return InboxPage(first, last, count, unread, active, is_complete)

    async def entry(self, owner: Jid, peer: Jid) -> InboxEntry | None:
        """One conversation; None: there is none with this address."""
        found = await self._link.call("inbox.entry", owner, peer)
        return None if found is None else _entry(found)

    async def set(
        self,
        owner: Jid,
        peer: Jid,
        *,
        box: str | None = None,
        muted_until: datetime | Literal["never"] | None = None,
        is_read: bool | None = None,
    ) -> InboxEntry:
        """Changes a conversation in the owner's order, what is None stays; done when committed,
        and the owner's sessions have been told. Gives it as it is then.

        `muted_until` "never" ends a mute. `is_read` false makes one message unread where there
        was none. Raises `item-not-found` without such a conversation.
        """
        until = 0 if muted_until == "never" else _ms(muted_until)
        return _entry(await self._link.call("inbox.set", owner, peer, box, until, is_read))

    async def empty_bin(self, owner: Jid) -> int:
        """Deletes the conversations in the box `bin`; how many there were."""
        return as_type(int, await self._link.call("inbox.empty_bin", owner))


def _entry(found: object) -> InboxEntry:
    peer, last_id, at_ms, unread, box, muted_ms, message = as_type(tuple, found)
    muted_until = from_ms(muted_ms) if muted_ms else None
    return InboxEntry(peer, last_id, from_ms(at_ms), unread, box, muted_until, message)
