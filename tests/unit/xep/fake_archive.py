# SPDX-License-Identifier: Apache-2.0
"""An archive and an inbox behind the fake core: what the operations give, and what was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from antiphon._core import Jid, Stanza
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import FakeCore

Filter = tuple[
    Jid | None,
    int | None,
    int | None,
    str | None,
    str | None,
    list[str] | None,
    str | None,
    bool,
]
Slice = tuple[str | None, str | None, bool, int]
Row = tuple[str, int, bool, Stanza]


def ms(text: str) -> int:
    """A moment of the tests."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@dataclass
class FakeArchive:
    """Rows of one owner, oldest first, and his inbox; `pages` are the pages that were given."""

    owner: str = "juliet@capulet.example"
    rows: list[Row] = field(default_factory=list)
    pages: list[tuple[object, ...]] = field(default_factory=list)
    purged: list[tuple[str | None, int | None]] = field(default_factory=list)
    prefs: tuple[str, list[Jid], list[Jid]] = ("always", [], [])
    entries: dict[str, list[object]] = field(default_factory=dict)
    inbox_pages: list[tuple[object, ...]] = field(default_factory=list)
    inbox_result: tuple[object, ...] = (None, None, 0, 0, 0, True)
    error: StanzaError | None = None

    def put_into(self, core: FakeCore) -> FakeArchive:
        """Answers that core's operations from now on."""
        for name in dir(self):
            if name.startswith(("_archive_", "_inbox_")):
                setattr(core, name, getattr(self, name))
        return self

    def add(self, at: str, peer: str, *bodies: str, is_out: bool = False) -> str:
        """One more message; its id."""
        frm, to = (self.owner, peer) if is_out else (peer, self.owner)
        children = [E("body", ns.CLIENT, text) for text in bodies]
        stanza = Stanza("message", frm=Jid(frm), to=Jid(to), children=children)
        self.rows.append((f"id{len(self.rows):03}", ms(at), is_out, stanza))
        return self.rows[-1][0]

    def _found(self, which: Filter) -> list[Row]:
        with_, start, end, after, before, ids, _, _ = which
        for named in (after, before, *(ids or ())):
            if named is not None and named not in [row[0] for row in self.rows]:
                raise StanzaError("item-not-found")
        return [
            row
            for row in self.rows
            if (with_ is None or _peer(row) == with_.bare)
            and (start is None or row[1] >= start)
            and (end is None or row[1] <= end)
            and (after is None or row[0] > after)
            and (before is None or row[0] < before)
            and (ids is None or row[0] in ids)
        ]

    def _part(self, which: Filter, part: Slice) -> tuple[list[Row], bool]:
        after, before, is_from_end, most = part
        self._found((None, None, None, after, before, None, None, False))
        found = [
            row
            for row in self._found(which)
            if (after is None or row[0] > after) and (before is None or row[0] < before)
        ]
        taken = found[max(0, len(found) - most) :] if is_from_end else found[:most]
        return taken if most else [], len(taken) == len(found)

    def _archive_page(
        self, owner: Jid, session: object, which: Filter, part: Slice, look: tuple[object, ...]
    ) -> tuple[object, ...]:
        self.pages.append((owner, session, which, part, look))
        if self.error is not None:
            raise self.error
        rows, is_complete = self._part(which, part)
        count = len(self._found(which)) if look[3] else None
        ends = (rows[0][0], rows[-1][0]) if rows else (None, None)
        return (*ends, count, is_complete, which[6] is None)

    def _archive_rows(self, owner: Jid, which: Filter, part: Slice) -> tuple[list[Row], bool]:
        return self._part(which, part)

    def _archive_count(self, owner: Jid, which: Filter, most: int) -> int | None:
        count = len(self._found(which))
        return count if count <= most else None

    def _archive_ends(self, owner: Jid) -> object:
        if not self.rows:
            return None
        return tuple((row[0], row[1]) for row in (self.rows[0], self.rows[-1]))

    def _archive_collections(self, owner: Jid, which: Filter, limit: int) -> list[object]:
        seen: dict[tuple[Jid, int], tuple[Jid, str, int]] = {}
        for row in self._found(which):
            day = row[1] // 86_400_000
            seen.setdefault((_peer(row), day), (_peer(row), row[0], row[1]))
        return cast("list[object]", list(seen.values())[:limit])

    def _archive_purge(self, owner: Jid, with_: Jid | None, before: int | None) -> None:
        self.purged.append((None if with_ is None else str(with_), before))

    def _archive_prefs_get(self, owner: Jid) -> tuple[str, list[Jid], list[Jid]]:
        return self.prefs

    def _archive_prefs_set(
        self, owner: Jid, default: str, always: list[Jid], never: list[Jid]
    ) -> tuple[str, list[Jid], list[Jid]]:
        self.prefs = (default, sorted(set(always)), sorted(set(never)))
        return self.prefs

    def _inbox_page(self, *given: object) -> tuple[object, ...]:
        self.inbox_pages.append(given)
        return self.inbox_result

    def _inbox_entry(self, owner: Jid, peer: Jid) -> tuple[object, ...] | None:
        found = self.entries.get(str(peer))
        return None if found is None else (peer, *found)

    def _inbox_set(
        self, owner: Jid, peer: Jid, box: str | None, until: int | None, is_read: bool | None
    ) -> tuple[object, ...]:
        entry = self.entries.get(str(peer))
        if entry is None:
            raise StanzaError("item-not-found")
        _, _, unread, old_box, muted, _ = entry
        entry[2] = {None: unread, True: 0, False: unread or 1}[is_read]
        entry[3] = box or old_box
        entry[4] = muted if until is None else until
        return (peer, *entry)

    def _inbox_empty_bin(self, owner: Jid) -> int:
        return 2


def _peer(row: Row) -> Jid:
    other = row[3].to if row[2] else row[3].frm
    assert other is not None
    return other.bare
