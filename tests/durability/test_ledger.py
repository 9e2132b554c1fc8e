# SPDX-License-Identifier: Apache-2.0
"""The judge finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from durability.ledger import Archives, Findings, Ledger, Mark, Row, judge, judge_inboxes

Rows = dict[int, list[Row]]


def flawless() -> tuple[Ledger, Rows]:
    """Three users, each of whom sent four messages to the next; all acknowledged."""
    ledger, archives = Ledger(), Rows({user: [] for user in range(3)})
    for number in range(1, 5):
        for sender in range(3):
            mark = Mark(sender, (sender + 1) % 3, number)
            ledger.send(mark)
            ledger.acknowledge(mark)
            id_ = f"{number:02d}{sender}"
            archives[sender].append(Row(id_, mark.receiver, True, mark.text))
            archives[mark.receiver].append(Row(id_, sender, False, mark.text))
    return ledger, archives


def place(archive: list[Row], number: int) -> int:
    """Where a message that came from another stands."""
    return next(
        i
        for i, row in enumerate(archive)
        if not row.is_out and (mark := Mark.of(row.body)) and mark.number == number
    )


def lose(archives: Rows) -> None:
    del archives[1][place(archives[1], 3)]


def lose_in_the_senders(archives: Rows) -> None:
    archives[0] = [row for row in archives[0] if not row.is_out or "0.1.2" not in row.body]


def double(archives: Rows) -> None:
    row = archives[2][place(archives[2], 2)]
    archives[2].append(row._replace(id="99"))


def reuse_an_id(archives: Rows) -> None:
    archives[0][3] = archives[0][3]._replace(id=archives[0][2].id)


def reorder(archives: Rows) -> None:
    one, two = place(archives[1], 2), place(archives[1], 3)
    rows = archives[1]
    rows[one], rows[two] = rows[two], rows[one]


def misplace(archives: Rows) -> None:
    archives[2].append(archives[1][place(archives[1], 1)]._replace(id="99"))


def invent(archives: Rows) -> None:
    archives[1].append(Row("99", 0, False, Mark(0, 1, 5).text))


def turn(archives: Rows) -> None:
    at = place(archives[1], 4)
    archives[1][at] = archives[1][at]._replace(is_out=True)


def test_a_flawless_run_gives_no_findings() -> None:
    ledger, archives = flawless()
    assert not judge(ledger, archives), str(judge(ledger, archives))


@pytest.mark.parametrize(
    "harm, kind",
    [
        (lose, "lost"),
        (lose_in_the_senders, "lost"),
        (double, "doubled"),
        (reuse_an_id, "doubled"),
        (reorder, "reordered"),
        (misplace, "foreign"),
        (invent, "foreign"),
        (turn, "foreign"),
    ],
)
def test_planted_harm_is_found(harm: Callable[[Rows], None], kind: str) -> None:
    ledger, archives = flawless()
    harm(archives)
    assert judge(ledger, archives).counts[kind] >= 1


def test_what_was_not_acknowledged_or_refused_may_be_missing() -> None:
    ledger, archives = flawless()
    lose(archives)
    del ledger.acknowledged[Mark(0, 1, 3)]
    assert not judge(ledger, archives)
    ledger.acknowledge(Mark(0, 1, 3))
    ledger.refused.add(Mark(0, 1, 3))
    assert not judge(ledger, archives)


def test_an_earlier_moment_knows_less() -> None:
    ledger, archives = flawless()
    for at, mark in enumerate(sorted(ledger.sent, key=lambda m: m.number)):
        ledger.sent[mark] = ledger.acknowledged[mark] = float(at)
    assert len(ledger.until(5.5).acknowledged) == 6
    assert judge(ledger.until(5.5), archives).counts["foreign"] > 0
    empty: Archives = {}
    assert judge(ledger.until(5.5), empty).counts["lost"] == 12


def test_a_wrong_unread_count_is_found() -> None:
    ledger, archives = flawless()
    ledger.read_up_to[1, 0] = 3
    right = {0: {1: 0, 2: 4}, 1: {2: 0, 0: 1}, 2: {0: 0, 1: 4}}
    assert not judge_inboxes(ledger, archives, right)
    for owner, peer, unread in ((0, 1, 1), (1, 0, 4), (2, 1, 3)):
        wrong = {**right, owner: {**right[owner], peer: unread}}
        assert judge_inboxes(ledger, archives, wrong).counts["miscounted"] == 1
    assert judge_inboxes(ledger, archives, {**right, 2: {0: 0}}).counts["miscounted"] == 1


def test_findings_say_what_and_how_many() -> None:
    findings = Findings(lost=[f"m{i}" for i in range(10)])
    assert str(findings).startswith("10 lost: m0; m1")
    assert str(findings).endswith("and 2 more")
