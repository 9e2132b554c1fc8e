# SPDX-License-Identifier: Apache-2.0
"""A node killed under load loses nothing that it acknowledged, and keeps nothing twice."""

from __future__ import annotations

import random

from durability import trials
from durability.crowd import Crowd
from durability.node import Mortal

PEOPLE = 20
ROUNDS = 5


async def test_five_kills_lose_double_and_reorder_nothing(
    mortal: Mortal, dice: random.Random
) -> None:
    crowd = Crowd(mortal.people(PEOPLE), window=20)
    figures = await trials.kills(mortal, crowd, ROUNDS, dice, longest_s=1.0)
    print(figures)
    assert not figures.findings, str(figures.findings)
    assert not crowd.ledger.refused
    assert figures.repeated > 0, "no kill came before an acknowledgement"
    assert figures.acknowledged > 500


async def test_what_is_sent_again_after_lost_connections_is_kept_once(mortal: Mortal) -> None:
    crowd = Crowd(mortal.people(PEOPLE), window=20)
    figures = await trials.drops(mortal, crowd, 3.0, cut_s=0.4)
    print(figures)
    assert not figures.findings, str(figures.findings)
    assert figures.drops > 20
    assert figures.resumed > 0
    assert figures.repeated > 0, "nobody had to send anything again"
