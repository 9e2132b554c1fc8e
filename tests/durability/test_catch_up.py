# SPDX-License-Identifier: Apache-2.0
"""A client that comes and goes sees every message once."""

from __future__ import annotations

import random

from durability import trials
from durability.node import Mortal

WRITERS = 8
MESSAGES = 10_000


async def test_a_client_that_disconnects_at_random_sees_ten_thousand_messages_once(
    mortal: Mortal, dice: random.Random
) -> None:
    accounts = mortal.people(WRITERS + 1)
    seen, there, cuts = await trials.catch_up(mortal, accounts, MESSAGES, dice)
    print(f"{seen} of {there} messages seen, {cuts} disconnections")
    assert seen == there >= MESSAGES
    assert cuts > 50
