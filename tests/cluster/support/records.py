# SPDX-License-Identifier: Apache-2.0
"""The verdict on a run: what clients sent and saw, and what the archives hold.

A pure function over records; nothing here knows a server. Built on the ledger of tests/durability,
which judges archives; this adds what clients saw and the ids that were served to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from durability import ledger as archived
from durability.ledger import SHOWN, Archives, Ledger, Mark


class Sight(NamedTuple):
    """One message that came to one client."""

    at: float
    """Of `time.monotonic`."""
    user: int
    """Whose client it was."""
    session: int
    """Which of his sessions; a resumed one keeps its number."""
    sender: int
    """As its `from` says; -1: nobody of ours."""
    receiver: int
    """As its `to` says."""
    archive_id: str | None
    """Of the user's own archive (XEP-0359)."""
    body: str


class Poll(NamedTuple):
    """Archive ids that a client was given page by page, each page asked for behind the last id."""

    user: int
    ids: tuple[str, ...]
    is_to_the_end: bool
    """Whether the last page was said to be complete."""


@dataclass
class History:
    """Everything that is known of a run that has come to rest."""

    ledger: Ledger = field(default_factory=Ledger)
    sights: list[Sight] = field(default_factory=list)
    """In the order of their times."""
    polls: list[Poll] = field(default_factory=list)
    by_wire: Archives = field(default_factory=dict)
    """Each user's archive as a client reads it (XEP-0313)."""
    by_store: Archives = field(default_factory=dict)
    """The same, read from the database by another driver; empty: nobody looked."""


@dataclass
class Findings:
    """What is wrong, each with its place; `bool` is false if nothing is."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the sender's or not in the receiver's archive."""
    doubled: list[str] = field(default_factory=list)
    """More than once in one archive, or with two ids."""
    reordered: list[str] = field(default_factory=list)
    """Behind a later message of the same pair, in an archive or before a client's eyes."""
    strayed: list[str] = field(default_factory=list)
    """Seen by, or in the archive of, somebody else; or sent by nobody."""
    went_back: list[str] = field(default_factory=list)
    """Archive ids not above one that an archive showed before."""
    differing: list[str] = field(default_factory=list)
    """Archives that two readers find different."""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {name: len(found) for name, found in vars(self).items()}

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def __str__(self) -> str:
        lines = []
        for name, found in vars(self).items():
            if found:
                more = "" if len(found) <= SHOWN else f" and {len(found) - SHOWN} more"
                lines.append(f"{len(found)} {name}: {'; '.join(found[:SHOWN])}{more}")
        return "\n".join(lines) or "nothing is wrong"

    def add(self, other: Findings) -> None:
        """Takes in what another look found."""
        for name, found in vars(self).items():
            found.extend(getattr(other, name))


def judge(history: History) -> Findings:
    """All that can be found wrong in a run."""
    findings = Findings()
    for archives in (history.by_wire, history.by_store):
        if archives:
            _judge_archives(history.ledger, archives, findings)
    if history.by_wire and history.by_store:
        _compare(history.by_wire, history.by_store, findings)
    _judge_sights(history, findings)
    for poll in history.polls:
        _judge_poll(poll, history.by_wire, findings)
    return findings


def repeats(sights: Iterable[Sight]) -> list[str]:
    """What one session was given more than once; not wrong after a failure, under one id."""
    seen: set[tuple[int, int, str]] = set()
    found = []
    for sight in sights:
        key = (sight.user, sight.session, sight.body)
        if key in seen:
            found.append(f"{sight.body[:16]!r} to {sight.user} in session {sight.session}")
        seen.add(key)
    return found


def late(history: History) -> list[str]:
    """What came to a client behind a later message of its archive.

    Not wrong after a failure: what was kept, and not delivered before a node died, is passed on
    under its old id when it is sent or routed again. Archives as such are judged by `judge`.
    """
    top: dict[int, str] = {}
    seen: set[str] = set()
    found = []
    for sight in history.sights:
        id_ = sight.archive_id
        if id_ is None or sight.body in seen:
            continue
        seen.add(sight.body)
        if sight.user in top and not _is_above(id_, top[sight.user]):
            found.append(f"{id_} of {sight.user} seen behind {top[sight.user]}")
        else:
            top[sight.user] = id_
    return found


def missed(history: History) -> list[str]:
    """Acknowledged messages that no client of the receiver ever saw, though they are kept."""
    seen = {Mark.of(sight.body) for sight in history.sights}
    kept = history.ledger.acknowledged.keys() - history.ledger.refused
    return sorted(mark.id for mark in kept - seen)


def _judge_archives(ledger: Ledger, archives: Archives, findings: Findings) -> None:
    found = archived.judge(ledger, archives)
    findings.lost += found.lost
    findings.doubled += found.doubled
    findings.reordered += found.reordered
    findings.strayed += found.foreign
    for owner, rows in archives.items():
        for before, after in pairwise(rows):
            if not _is_above(after.id, before.id):
                findings.went_back.append(f"{after.id} of {owner} stands behind {before.id}")


def _is_above(one: str, other: str) -> bool:
    """Ids of one archive sort as the numbers or the texts that they are."""
    if one.isdecimal() and other.isdecimal():
        return int(one) > int(other)
    return one > other


def _compare(by_wire: Archives, by_store: Archives, findings: Findings) -> None:
    for owner in sorted(by_wire.keys() | by_store.keys()):
        wire = [(row.peer, row.is_out, row.body) for row in by_wire.get(owner, [])]
        store = [(row.peer, row.is_out, row.body) for row in by_store.get(owner, [])]
        if wire != store:
            findings.differing.append(
                f"archive of {owner}: {len(wire)} rows by the wire, {len(store)} in the store"
            )


def _judge_sights(history: History, findings: Findings) -> None:
    last: dict[Mark, int] = {}  # by pair, number 0
    names = _Names(history)
    seen: set[Mark] = set()
    for sight in history.sights:
        mark = Mark.of(sight.body)
        if mark is None or not _belongs(history.ledger, sight, mark):
            findings.strayed.append(f"{sight.body[:24]!r} seen by {sight.user}")
            continue
        id_ = sight.archive_id
        if id_ is not None:
            names.judge(mark, id_, findings)
        if mark in seen:
            continue
        seen.add(mark)
        pair = mark._replace(number=0)
        if mark.number < last.get(pair, 0):
            findings.reordered.append(f"{mark.id} seen behind {last[pair]}")
        last[pair] = max(mark.number, last.get(pair, 0))


class _Names:
    """Archive ids under which messages were seen, beside those under which they are kept.

    One may be seen under an id that is kept nowhere: while the store is slow, delivery goes ahead
    of the commit, and what was not acknowledged may be sent again after a failure.
    """

    def __init__(self, history: History) -> None:
        self._kept: dict[Mark, str] = {}
        self._owner: dict[tuple[int, str], Mark] = {}
        self._seen: dict[Mark, set[str]] = {}
        for owner, rows in history.by_wire.items():
            for row in rows:
                mark = Mark.of(row.body)
                if mark is not None and mark.receiver == owner and not row.is_out:
                    self._kept[mark] = row.id
                    self._owner[owner, row.id] = mark

    def judge(self, mark: Mark, id_: str, findings: Findings) -> None:
        """Looks at one that a client was given."""
        if self._owner.get((mark.receiver, id_), mark) != mark:
            findings.doubled.append(f"{mark.id} seen under the id {id_} of another")
            return
        seen = self._seen.setdefault(mark, set())
        seen.add(id_)
        if len(seen) > 1 and self._kept.get(mark) not in seen:
            findings.doubled.append(f"{mark.id} seen under {sorted(seen)}, kept under neither")


def _belongs(ledger: Ledger, sight: Sight, mark: Mark) -> bool:
    return (
        mark in ledger.sent
        and mark.receiver == sight.user == sight.receiver
        and mark.sender == sight.sender
    )


def _judge_poll(poll: Poll, archives: Archives, findings: Findings) -> None:
    """A poller that goes on behind the last id it has must never miss one."""
    for before, after in pairwise(poll.ids):
        if not _is_above(after, before):
            findings.went_back.append(f"{after} of {poll.user} served behind {before}")
    if poll.user not in archives:
        return
    final: Sequence[str] = [row.id for row in archives[poll.user]]
    served, whole = set(poll.ids), set(final)
    for id_ in poll.ids:
        if id_ not in whole:
            findings.lost.append(f"{id_} of {poll.user} was served and is gone")
    for id_ in final:
        is_passed = bool(poll.ids) and not _is_above(id_, poll.ids[-1])
        if id_ not in served and (is_passed or poll.is_to_the_end):
            findings.went_back.append(f"{id_} of {poll.user} came behind the back of a poller")
