# SPDX-License-Identifier: Apache-2.0
"""XEP-0085 Chat State Notifications: passes through the server untouched."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.xml import E, Element, message

STATES = ["active", "composing", "paused", "inactive", "gone"]


def standing_alone(to: str, state: str) -> Element:
    """XEP-0085, example 4: a notification without a body."""
    return message(to, E(state, ns.CHATSTATES), type="chat")


@pytest.mark.parametrize("state", STATES)
async def test_state_passes(romeo: Client, juliet: Client, state: str) -> None:
    romeo.send(standing_alone(juliet.jid, state))
    got = await juliet.expect("message")
    assert [c.tag for c in got] == [(state, ns.CHATSTATES)]


async def test_state_beside_a_body_passes(romeo: Client, juliet: Client) -> None:
    # XEP-0085, example 2
    romeo.send(message(juliet.jid, E("body", None, "hi"), E("active", ns.CHATSTATES), type="chat"))
    got = await juliet.expect("message")
    assert got.body == "hi"
    assert got.has("active", ns.CHATSTATES)
