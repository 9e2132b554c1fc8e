# SPDX-License-Identifier: Apache-2.0
"""What clients know of the messages they sent, and the verdict on what archives made of them.

Every message carries its sender, receiver and number, counted from 1 within the pair, in its body,
so that an archive can be judged without trusting anything else in it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

MARK = re.compile(r"^(\d+)\.(\d+)\.(\d+) ")
SHOWN = 8


class Mark(NamedTuple):
    """Which message: `number` counts from 1 what `sender` sent to `receiver`."""

    sender: int
    receiver: int
    number: int

    @property
    def id(self) -> str:
        """The stanza's id, the same whenever it is sent again."""
        return f"m{self.sender}-{self.receiver}-{self.number}"

    @property
    def text(self) -> str:
        """The body: about a hundred bytes, no two alike."""
        words = "the tide comes in at six and nobody has seen the boat since the storm of Sunday"
        return f"{self.sender}.{self.receiver}.{self.number} {words}"

    @classmethod
    def of(cls, body: str) -> Mark | None:
        """Reads `text`; `None` for anything else."""
        found = MARK.match(body)
        return None if found is None else cls(*map(int, found.groups()))


class Row(NamedTuple):
    """One message of one archive."""

    id: str
    """The archive's own id of it."""
    peer: int
    """The other side, as the archive has it; -1: nobody of ours."""
    is_out: bool
    """Whether the archive says that its owner sent it."""
    body: str


Archives = Mapping[int, list[Row]]
"""Each user's archive, oldest first."""
Inboxes = Mapping[int, Mapping[int, int]]
"""Unread messages: of each user, by peer."""


@dataclass
class Ledger:
    """What was sent, and what the server's `h` has covered. Times are of `time.monotonic`."""

    sent: dict[Mark, float] = field(default_factory=dict)
    acknowledged: dict[Mark, float] = field(default_factory=dict)
    refused: set[Mark] = field(default_factory=set)
    """Answered with an error: the sender knows that it is not kept."""
    read_up_to: dict[tuple[int, int], int] = field(default_factory=dict)
    """By (reader, peer): the number that a marker named (XEP-0333)."""
    repeated: int = 0
    """How often something was sent again."""

    def send(self, mark: Mark) -> None:
        """A message goes out, for the first time or again."""
        if mark in self.sent:
            self.repeated += 1
        else:
            self.sent[mark] = time.monotonic()

    def acknowledge(self, mark: Mark) -> None:
        """The server's `h` covers a message."""
        self.acknowledged.setdefault(mark, time.monotonic())

    def until(self, moment: float) -> Ledger:
        """What clients knew at an earlier moment."""
        return Ledger(
            {m: t for m, t in self.sent.items() if t <= moment},
            {m: t for m, t in self.acknowledged.items() if t <= moment},
            set(self.refused),
        )

    @property
    def open(self) -> int:
        """Messages of which the sender does not know whether they are kept."""
        return len(self.sent) - len(self.acknowledged)


@dataclass
class Findings:
    """What is wrong, each with its place; nothing is as it should be."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the sender's or not in the receiver's archive."""
    doubled: list[str] = field(default_factory=list)
    """More than once in one archive."""
    reordered: list[str] = field(default_factory=list)
    """Behind a later message of the same pair."""
    foreign: list[str] = field(default_factory=list)
    """In the archive of a third, from nobody, or on the wrong side."""
    miscounted: list[str] = field(default_factory=list)
    """Conversations whose unread count is not what the archive says."""
    damaged: list[str] = field(default_factory=list)
    """Files that are not whole."""

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
        """Takes in what another check found."""
        for name, found in vars(self).items():
            found.extend(getattr(other, name))


def judge(ledger: Ledger, archives: Archives) -> Findings:
    """Compares archives with what clients know."""
    findings = Findings()
    kept: dict[int, set[Mark]] = {}
    for owner, rows in archives.items():
        kept[owner] = _judge_one(ledger, owner, rows, findings)
    for mark in ledger.acknowledged.keys() - ledger.refused:
        for owner in {mark.sender, mark.receiver}:
            if mark not in kept.get(owner, ()):
                findings.lost.append(f"{mark.id} of {owner}")
    findings.lost.sort()
    return findings


def _judge_one(ledger: Ledger, owner: int, rows: Iterable[Row], findings: Findings) -> set[Mark]:
    seen: set[Mark] = set()
    ids: set[str] = set()
    last: dict[tuple[int, int], int] = {}
    for row in rows:
        mark = Mark.of(row.body)
        if row.id in ids:
            findings.doubled.append(f"id {row.id} of {owner}")
        ids.add(row.id)
        if mark is None or not _belongs(ledger, owner, row, mark):
            findings.foreign.append(f"{row.body[:24]!r} of {owner}")
            continue
        if mark in seen:
            findings.doubled.append(f"{mark.id} of {owner}")
            continue
        seen.add(mark)
        pair = (mark.sender, mark.receiver)
        if mark.number < last.get(pair, 0):
            findings.reordered.append(f"{mark.id} of {owner} behind {last[pair]}")
        last[pair] = max(mark.number, last.get(pair, 0))
    return seen


def _belongs(ledger: Ledger, owner: int, row: Row, mark: Mark) -> bool:
    peer = mark.receiver if row.is_out else mark.sender
    holder = mark.sender if row.is_out else mark.receiver
    return mark in ledger.sent and holder == owner and row.peer == peer


def judge_inboxes(ledger: Ledger, archives: Archives, inboxes: Inboxes) -> Findings:
    """Compares unread counts with the archives, where nobody answers who is written to."""
    findings = Findings()
    for owner, rows in archives.items():
        truth: dict[int, int] = {}
        for row in rows:
            mark = Mark.of(row.body)
            number = 0 if mark is None else mark.number
            is_unread = not row.is_out and number > ledger.read_up_to.get((owner, row.peer), 0)
            truth[row.peer] = truth.get(row.peer, 0) + int(is_unread)
        found = inboxes.get(owner, {})
        for peer in truth.keys() | found.keys():
            if truth.get(peer) != found.get(peer):
                findings.miscounted.append(
                    f"{owner} with {peer}: {found.get(peer)}, not {truth.get(peer)}"
                )
    return findings
