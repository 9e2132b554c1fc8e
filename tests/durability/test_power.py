# SPDX-License-Identifier: Apache-2.0
"""A power cut at any moment loses nothing that was acknowledged: the disk had it."""

from __future__ import annotations

import random
from statistics import median

import pytest

from durability import outage, trials
from durability.crowd import Crowd
from durability.node import Mortal

PEOPLE = 20
SECONDS = 2.0
CUTS = 10
SLOW_S = 0.3


async def test_power_cuts_under_load_lose_double_and_reorder_nothing(
    mortal: Mortal, dice: random.Random
) -> None:
    if mortal.contact_points:
        pytest.skip("the disk is Cassandra's own")
    crowd = Crowd(mortal.people(PEOPLE))
    figures, control = await trials.power(mortal, crowd, SECONDS, CUTS, dice)
    print(figures)
    print(f"on a disk that lies: {control}")
    assert not figures.findings, str(figures.findings)
    assert figures.torn > 0, "no cut came between a write and its sync"
    harm = control.findings.lost or control.findings.damaged
    assert harm, "a server that does not sync would pass this test"


async def test_on_a_slow_disk_messages_arrive_and_acknowledgements_wait(mortal: Mortal) -> None:
    if mortal.contact_points:
        pytest.skip("the disk is Cassandra's own")
    a, b = mortal.people(2)
    beats = await outage.crawl(mortal, (a, b), SLOW_S)
    print(beats)
    assert median(beat.delivered_s for beat in beats) < SLOW_S / 2
    assert min(beat.acknowledged_s for beat in beats) > SLOW_S
