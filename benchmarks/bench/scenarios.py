# SPDX-License-Identifier: Apache-2.0
"""What is measured: the generator's arguments for each scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

USERS = 200
Unit = Literal["message", "login", "resumption", "delivery", "connection"]


@dataclass(frozen=True)
class Scenario:
    """One row of the report."""

    name: str
    title: str
    arguments: tuple[str, ...]
    unit: Unit = "message"
    tls: bool = False
    """By direct TLS 1.3, a full handshake each; otherwise plain."""
    has_latency: bool = False
    """Open loop: latencies count as much as CPU."""
    users: int | None = None
    """Every repetition gets a new process with so many accounts; otherwise all share one."""
    is_core: bool = True
    """Part of a run that names no scenarios."""


SCENARIOS = (
    Scenario("msg-plain", "1-1 messages, plain, saturated", ("msg",)),
    Scenario("msg-tls", "1-1 messages, TLS 1.3, saturated", ("msg",), tls=True),
    Scenario(
        "msg-plain-1000",
        "1-1 messages, plain, 1,000/s offered",
        ("msg", "--rate", "1000"),
        has_latency=True,
    ),
    Scenario("login-plain", "login SCRAM-SHA-256, plain", ("login", "--window", "8"), "login"),
    Scenario(
        "login-tls",
        "login SCRAM-SHA-256, TLS 1.3 handshake",
        ("login", "--window", "8"),
        "login",
        tls=True,
    ),
    Scenario(
        "msg-sm",
        "1-1 messages, plain, an ack request each 5",
        ("msg", "--sm", "5"),
        is_core=False,
    ),
    Scenario(
        "msg-carbons",
        "1-1 messages, plain, 2 resources with carbons",
        ("msg", "--carbons", "1"),
        is_core=False,
    ),
    Scenario(
        "login-password",
        "login PLAIN, no TLS",
        ("login", "--window", "8", "--mechanism", "PLAIN"),
        "login",
        is_core=False,
    ),
    Scenario("resume", "resumption after a cut", ("resume", "--window", "8"), "resumption",
             is_core=False),
    Scenario("presence", "presence to 50 contacts", ("presence", "--window", "8"), "delivery",
             is_core=False),
    Scenario("idle-plain", "idle, plain", ("idle", "--connections", "2000"), "connection",
             users=2000, is_core=False),
    Scenario("idle-tls", "idle, TLS 1.3", ("idle", "--connections", "2000"), "connection",
             users=2000, tls=True, is_core=False),
)  # fmt: skip
"""In the order of the tables; the names are those of the files."""
