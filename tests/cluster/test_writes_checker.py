# SPDX-License-Identifier: Apache-2.0
"""The checker of writes finds what it is there to find."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cluster.support.writes import Write, judge_writes, late_writes, read

ANNE, BERT = "anne@load.example", "bert@load.example"
ALIVE = {ANNE: [10, 11, 20, 21]}


def flawless() -> list[Write]:
    """Shard 7 is the first process's until epoch 5, then the second one's; shard 8 is another's."""
    return [
        Write(100, 1, 2, 7, ANNE, (10, 11)),
        Write(101, 1, 2, 7, ANNE, ()),
        Write(102, 3, 2, 8, BERT, ()),
        Write(200, 2, 5, 7, ANNE, (20,)),
        Write(201, 2, 5, 7, ANNE, ()),
        Write(203, 2, 5, 7, ANNE, (21,)),
        Write(204, 2, 5, 7, ANNE, ()),
    ]


def write_under_the_epoch_of_another(writes: list[Write]) -> None:
    writes.append(Write(300, 1, 5, 7, ANNE, ()))


def bring_a_living_message_late(writes: list[Write]) -> None:
    writes[0] = writes[0]._replace(us=202)


def give_an_id_above_those_of_the_next(writes: list[Write]) -> None:
    writes[0] = writes[0]._replace(ids=(10, 11, 21))
    writes[5] = writes[5]._replace(ids=())


def test_a_flawless_run_gives_no_findings() -> None:
    assert judge_writes(flawless(), ALIVE) == []
    assert late_writes(flawless()) == []


@pytest.mark.parametrize(
    "harm, said",
    [
        (write_under_the_epoch_of_another, "shard 7 was written at epoch 5 by [1, 2]"),
        (bring_a_living_message_late, "11 of epoch 2 came late and is alive"),
        (give_an_id_above_those_of_the_next, "21 of epoch 2 lies above one of epoch 5"),
    ],
)
def test_planted_harm_is_found(harm: Callable[[list[Write]], None], said: str) -> None:
    writes = flawless()
    harm(writes)
    assert [one for one in judge_writes(writes, ALIVE) if said in one], judge_writes(writes, ALIVE)


def test_what_comes_late_and_is_dead_is_no_harm_but_is_counted() -> None:
    writes = [*flawless(), Write(206, 1, 2, 7, ANNE, (12,)), Write(207, 1, 2, 7, ANNE, ())]
    assert judge_writes(writes, ALIVE) == []
    assert len(late_writes(writes)) == 2


def test_whose_archive_nobody_read_is_judged_by_owners_alone() -> None:
    writes = flawless()
    bring_a_living_message_late(writes)
    assert judge_writes(writes, {}) == []
    write_under_the_epoch_of_another(writes)
    assert len(judge_writes(writes, {})) == 1


def test_a_line_that_death_has_cut_is_left_out() -> None:
    whole = json.dumps(Write(1, 2, 3, 4, ANNE, (5,))._asdict())
    of_domain = json.dumps(Write(1, 2, 0, 4, "load.example", ())._asdict())
    assert read([of_domain + "\n", whole + "\n", whole[:-4]]) == [Write(1, 2, 3, 4, ANNE, (5,))]
