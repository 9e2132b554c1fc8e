# SPDX-License-Identifier: Apache-2.0
"""The checker finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest

from cluster.support.records import Findings, History, Poll, Sight, judge, late, missed, repeats
from durability.ledger import Mark, Row

USERS, NUMBERS = 3, 5


def sight(mark: Mark, at: float, id_: str, session: int = 1) -> Sight:
    return Sight(at, mark.receiver, session, mark.sender, mark.receiver, id_, mark.text)


def flawless() -> History:
    """Three users, each of whom sent five messages to the next; all acknowledged, all seen."""
    history = History()
    by_wire: dict[int, list[Row]] = {user: [] for user in range(USERS)}
    for number in range(1, NUMBERS + 1):
        for sender in range(USERS):
            mark = Mark(sender, (sender + 1) % USERS, number)
            history.ledger.send(mark)
            history.ledger.acknowledge(mark)
            id_ = f"{number:02d}{sender}"
            by_wire[sender].append(Row(id_, mark.receiver, True, mark.text))
            by_wire[mark.receiver].append(Row(id_, sender, False, mark.text))
            history.sights.append(sight(mark, number + sender / 10, id_))
    history.by_wire = by_wire
    history.by_store = deepcopy(by_wire)
    history.polls = [
        Poll(user, tuple(row.id for row in rows), True) for user, rows in by_wire.items()
    ]
    return history


def rows(history: History, owner: int) -> list[Row]:
    found = history.by_wire[owner]
    assert isinstance(found, list)
    return found


def place(history: History, owner: int, number: int) -> int:
    """Where a message that came from another stands."""
    return next(
        at
        for at, row in enumerate(history.by_wire[owner])
        if not row.is_out and (mark := Mark.of(row.body)) and mark.number == number
    )


def lose(history: History) -> None:
    del rows(history, 1)[place(history, 1, 3)]


def lose_in_the_senders(history: History) -> None:
    found = rows(history, 0)
    found[:] = [row for row in found if not row.is_out or not row.body.startswith("0.1.2 ")]


def lose_in_the_store_alone(history: History) -> None:
    found = history.by_store[2]
    assert isinstance(found, list)
    found.pop()


def double(history: History) -> None:
    found = rows(history, 2)
    found.append(found[place(history, 2, 2)]._replace(id="999"))


def use_an_id_twice(history: History) -> None:
    found = rows(history, 0)
    found[3] = found[3]._replace(id=found[2].id)


def show_under_the_id_of_another(history: History) -> None:
    history.sights[4] = history.sights[4]._replace(archive_id=history.sights[7].archive_id)


def reorder_in_the_archive(history: History) -> None:
    one, two = place(history, 1, 2), place(history, 1, 3)
    found = rows(history, 1)
    found[one], found[two] = (
        found[two]._replace(id=found[one].id),
        found[one]._replace(id=found[two].id),
    )


def reorder_before_the_eyes(history: History) -> None:
    ours = [at for at, one in enumerate(history.sights) if one.user == 2]
    one, two = ours[1], ours[2]
    history.sights[one], history.sights[two] = history.sights[two], history.sights[one]


def deliver_to_a_third(history: History) -> None:
    history.sights[2] = history.sights[2]._replace(user=(history.sights[2].user + 1) % USERS)


def deliver_from_another(history: History) -> None:
    history.sights[2] = history.sights[2]._replace(sender=(history.sights[2].sender + 1) % USERS)


def deliver_what_nobody_sent(history: History) -> None:
    history.sights.append(sight(Mark(0, 1, NUMBERS + 1), 99.0, "999"))


def keep_for_a_third(history: History) -> None:
    rows(history, 2).append(rows(history, 1)[place(history, 1, 1)]._replace(id="999"))


def let_an_id_go_back(history: History) -> None:
    last = rows(history, 1)[-1]
    rows(history, 1)[-1] = last._replace(id="000")


def let_a_seen_id_go_back(history: History) -> None:
    at = max(at for at, one in enumerate(history.sights) if one.user == 1)
    history.sights[at] = history.sights[at]._replace(archive_id="000")


def write_behind_a_poller(history: History) -> None:
    poll = history.polls[1]
    history.polls[1] = poll._replace(ids=poll.ids[:3] + poll.ids[4:])


def serve_what_is_gone(history: History) -> None:
    poll = history.polls[0]
    history.polls[0] = poll._replace(ids=(*poll.ids, "999"))


def serve_an_old_page(history: History) -> None:
    poll = history.polls[0]
    history.polls[0] = poll._replace(ids=(*poll.ids[:4], poll.ids[2], *poll.ids[4:]))


def test_a_flawless_run_gives_no_findings() -> None:
    history = flawless()
    assert not judge(history), str(judge(history))
    assert not repeats(history.sights)
    assert not missed(history)
    assert not late(history)


@pytest.mark.parametrize(
    "harm, kind",
    [
        (lose, "lost"),
        (lose_in_the_senders, "lost"),
        (lose_in_the_store_alone, "lost"),
        (lose_in_the_store_alone, "differing"),
        (serve_what_is_gone, "lost"),
        (double, "doubled"),
        (use_an_id_twice, "doubled"),
        (show_under_the_id_of_another, "doubled"),
        (reorder_in_the_archive, "reordered"),
        (reorder_before_the_eyes, "reordered"),
        (deliver_to_a_third, "strayed"),
        (deliver_from_another, "strayed"),
        (deliver_what_nobody_sent, "strayed"),
        (keep_for_a_third, "strayed"),
        (let_an_id_go_back, "went_back"),
        (write_behind_a_poller, "went_back"),
        (serve_an_old_page, "went_back"),
    ],
)
def test_planted_harm_is_found(harm: Callable[[History], None], kind: str) -> None:
    history = flawless()
    harm(history)
    assert judge(history).counts[kind] >= 1, str(judge(history))


def test_what_was_not_acknowledged_or_refused_may_be_missing() -> None:
    history = flawless()
    history.polls, history.by_store = [], {}
    lose(history)
    mark = Mark(0, 1, 3)
    del history.ledger.acknowledged[mark]
    assert not judge(history)
    history.ledger.acknowledge(mark)
    history.ledger.refused.add(mark)
    assert not judge(history)


def test_a_message_given_again_under_its_id_is_counted_apart() -> None:
    history = flawless()
    history.sights.append(history.sights[-1])
    assert not judge(history), str(judge(history))
    assert len(repeats(history.sights)) == 1


def test_a_message_that_comes_behind_a_later_one_of_its_archive_is_counted_apart() -> None:
    history = flawless()
    let_a_seen_id_go_back(history)
    assert len(late(history)) == 1


def test_what_no_client_saw_is_told_though_nothing_is_lost() -> None:
    history = flawless()
    gone = history.sights.pop()
    assert not judge(history)
    mark = Mark.of(gone.body)
    assert mark is not None
    assert missed(history) == [mark.id]


def test_a_poller_that_has_not_come_to_the_end_misses_nothing() -> None:
    history = flawless()
    poll = history.polls[0]
    history.polls[0] = poll._replace(ids=poll.ids[:4], is_to_the_end=False)
    assert not judge(history)


def test_findings_say_what_and_how_many() -> None:
    findings = Findings(lost=[f"m{i}" for i in range(10)])
    assert str(findings).startswith("10 lost: m0; m1")
    assert str(findings).endswith("and 2 more")
