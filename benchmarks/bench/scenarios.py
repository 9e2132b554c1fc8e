# SPDX-License-Identifier: Apache-2.0
"""What is measured: the generator's arguments for each scenario."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from bench.accounts import Accounts

LONELY = 200
BEFRIENDED = 100

Unit = Literal[
    "message", "login", "resumption", "delivery", "connection", "page", "search", "inbox"
]
Kind = Literal["cpu", "memory", "workers", "crossings", "archive", "filled", "disk"]
Backend = Literal["none", "sqlite", "cassandra"]
"""cpu: all servers in turn, each for itself on one processor. memory: a new process for each
repetition. workers: our own node with one and with two threads, everybody on both processors.
crossings: our own node's counter. archive: new servers for each repetition. filled: our own node
with a store that was filled before; disk: what that takes."""

SEARCHES = (
    "rare", "common", "two common", "common and rare", "phrase", "prefix", "absent", "with",
)  # fmt: skip
"""Kinds, as benchmarks/load/src/scenario/query.rs names them."""


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
    stretch: float = 1.0
    """The measured window, in those of the run: rare things need longer ones."""
    is_befriended: bool = False
    """Memory only: every account has a roster."""
    backend: Backend = "none"
    """Where our own node keeps archives; none: no archive."""
    with_rivals: bool = True
    """archive only."""
    with_unkept: bool = False
    """archive only: beside our own node without an archive, in turn."""
    has_words: bool = False
    """Messages of words instead of one letter, or questions for words."""

    def accounts(self, connections: int) -> Accounts:
        """What its own server gets, one for each connection (memory).

        The befriended are half as many: their first presence is fifty deliveries each.
        """
        return Accounts(0, connections // 2) if self.is_befriended else Accounts(connections)


_MSG = Scenario("msg-plain", "1-1 messages, plain, saturated", ("msg",))
# So many, since ejabberd lets a tenth of a second pass before it ends a stream, and would idle.
_LOGIN = Scenario("login-plain", "login SCRAM-SHA-256, plain", ("login", "--window", "64"), "login")
_IDLE = Scenario("idle-plain", "idle, plain", ("idle",), "connection", "memory")
_WORKERS = Scenario("workers-saturated", "two workers and one, saturated", ("msg",), kind="workers")

_ARCHIVE = Scenario(
    "msg-archive",
    "1-1 messages, archives of both, inbox, full text, saturated",
    ("msg", "--afterwards", "1"),
    kind="archive",
    backend="sqlite",
    has_words=True,
)
_ACK = replace(
    _ARCHIVE,
    name="ack",
    title="acknowledgement, 1,000/s offered",
    arguments=("msg", "--rate", "1000", "--sm", "1"),
    with_rivals=False,
    with_unkept=True,
    stretch=2.0,
)
_SEARCH = Scenario(
    "search",
    "search by the owner of a tenth of all",
    ("search", "--users", "1", "--connections", "1"),
    "search",
    "filled",
    backend="sqlite",
    has_words=True,
    stretch=2.0,
)
_INBOX = replace(
    _SEARCH,
    name="inbox",
    title="inbox of 500 conversations",
    arguments=("inbox", "--users", "1", "--connections", "1"),
    unit="inbox",
)
_DISK = replace(_SEARCH, name="disk", title="kept in two archives", kind="disk", unit="message")

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
    _ARCHIVE,
    replace(
        _ARCHIVE,
        name="mam-page",
        title="pages of 50 messages, 10 clients",
        arguments=("mamq", "--users", "10", "--connections", "10", "--fill", "400"),
        unit="page",
    ),
    _ACK,
    _SEARCH,
    _INBOX,
    _DISK,
    replace(
        _ARCHIVE,
        name="msg-archive-cassandra",
        title="the same into Cassandra",
        backend="cassandra",
        with_rivals=False,
    ),
    replace(
        _ACK,
        name="ack-cassandra",
        title="acknowledgement, archives in Cassandra, 1,000/s offered",
        backend="cassandra",
    ),
    replace(
        _ARCHIVE,
        name="mam-page-cassandra",
        title="pages of 50 messages, 10 clients, Cassandra",
        arguments=("mamq", "--users", "10", "--connections", "10", "--fill", "400"),
        unit="page",
        backend="cassandra",
        with_rivals=False,
    ),
    replace(
        _SEARCH,
        name="search-cassandra",
        title="search by the owner of a tenth of all, Cassandra",
        backend="cassandra",
    ),
    replace(
        _INBOX,
        name="inbox-cassandra",
        title="inbox of 500 conversations, Cassandra",
        backend="cassandra",
    ),
    replace(
        _DISK, name="disk-cassandra", title="kept in two archives, Cassandra", backend="cassandra"
    ),
)
"""In the order of the tables; the names are those of the files."""
