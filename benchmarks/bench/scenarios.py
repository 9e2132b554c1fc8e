# SPDX-License-Identifier: Apache-2.0
"""What is measured: the generator's arguments for each scenario."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bench.accounts import Accounts

LONELY = 200
BEFRIENDED = 100

Unit = Literal["message", "login", "resumption", "delivery", "connection"]
Kind = Literal["cpu", "memory", "workers", "crossings"]
"""cpu: all servers in turn, each for itself on one processor. memory: a new process for each
repetition. workers: our own node with one and with two threads, everybody on both processors.
crossings: our own node's counter."""


@dataclass(frozen=True)
class Scenario:
    """One load."""

    name: str
    title: str
    arguments: tuple[str, ...]
    unit: Unit = "message"
    kind: Kind = "cpu"
    tls: bool = False
    """By direct TLS 1.3, a full handshake each; otherwise plain."""
    has_latency: bool = False
    """Open loop: latencies count as much as CPU."""
    with_defaults: bool = False
    """A full run measures the rivals untuned as well."""
    stretch: float = 1.0
    """The measured window, in those of the run: rare things need longer ones."""
    is_befriended: bool = False
    """Memory only: every account has a roster."""

    def accounts(self, connections: int) -> Accounts:
        """What its own server gets, one for each connection (memory).

        The befriended are half as many: their first presence is fifty deliveries each.
        """
        return Accounts(0, connections // 2) if self.is_befriended else Accounts(connections)


_MSG = Scenario("msg-plain", "1-1 messages, plain, saturated", ("msg",), with_defaults=True)
# So many, since ejabberd lets a tenth of a second pass before it ends a stream, and would idle.
_LOGIN = Scenario("login-plain", "login SCRAM-SHA-256, plain", ("login", "--window", "64"), "login")
_IDLE = Scenario("idle-plain", "idle, plain", ("idle",), "connection", "memory")
_WORKERS = Scenario("workers-saturated", "two workers and one, saturated", ("msg",), kind="workers")

SCENARIOS = (
    _MSG,
    replace(_MSG, name="msg-tls", title="1-1 messages, TLS 1.3, saturated", tls=True),
    replace(
        _MSG,
        name="msg-sm",
        title="1-1 messages, plain, an ack request each 5",
        arguments=("msg", "--sm", "5"),
    ),
    replace(
        _MSG,
        name="msg-carbons",
        title="1-1 messages, plain, carbons, 2 resources each",
        arguments=("msg", "--carbons", "1"),
    ),
    replace(
        _MSG,
        name="msg-plain-1000",
        title="1-1 messages, plain, 1,000/s offered",
        arguments=("msg", "--rate", "1000"),
        has_latency=True,
        stretch=2.0,
    ),
    _LOGIN,
    replace(_LOGIN, name="login-tls", title="login SCRAM-SHA-256, TLS 1.3 handshake", tls=True),
    replace(
        _LOGIN,
        name="login-password",
        title="PLAIN login again, no TLS",
        # Few: the first login of each costs the server a slow hash, and is not measured.
        arguments=("login", "--window", "64", "--mechanism", "PLAIN", "--users", "40"),
    ),
    Scenario("resume", "SM resumption after a cut", ("resume", "--window", "8"), "resumption"),
    Scenario(
        "presence",
        "presence to 50 contacts",
        ("presence", "--window", "8", "--first", str(LONELY), "--users", str(BEFRIENDED)),
        "delivery",
    ),
    _IDLE,
    replace(_IDLE, name="idle-tls", title="idle, TLS 1.3", tls=True),
    replace(
        _IDLE,
        name="idle-tls-sm",
        title="idle, TLS 1.3, SM",
        arguments=("idle", "--sm", "5"),
        tls=True,
    ),
    replace(
        _IDLE,
        name="idle-roster",
        title="idle, TLS 1.3, SM, roster of 50",
        arguments=("idle", "--sm", "5", "--roster", "1"),
        tls=True,
        is_befriended=True,
    ),
    _WORKERS,
    replace(
        _WORKERS,
        name="workers-rate",
        title="two workers and one, 20,000/s offered",
        arguments=("msg", "--rate", "20000"),
    ),
    Scenario("crossings", "crossings into Python", ("msg",), kind="crossings"),
)
"""In the order of the tables; the names are those of the files."""
