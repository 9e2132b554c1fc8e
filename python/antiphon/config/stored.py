# SPDX-License-Identifier: Apache-2.0
"""The sections about what is stored: the engines, the archive."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from antiphon.config.section import PATH, SECRET, Section


class Cassandra(Section, frozen=True, kw_only=True):
    """The cluster that `storage.backend = "cassandra"` keeps everything in (4.1 or 5.0)."""

    contact_points: Annotated[
        tuple[str, ...],
        Meta(description="Some of its nodes, host:port; the others are found through them."),
    ] = ("127.0.0.1:9042",)
    keyspace: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_]{1,48}$",
            description="Its name; `antiphon migrate` makes it.",
            extra={"rule": "letters, digits and _, at most 48"},
        ),
    ] = "antiphon"
    local_datacenter: Annotated[
        str | None,
        Meta(description="The data centre that is asked; needed where there are several."),
    ] = None
    replication: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[^:]+:[1-9][0-9]?$")], ...],
        Meta(
            description="Copies in each data centre, like dc1:3, when `antiphon migrate` makes "
            "the keyspace; left out: 3 in each, or as many as it has nodes.",
            extra={"rule": "data centre and number, like dc1:3"},
        ),
    ] = ()
    user: Annotated[str | None, Meta(description="Where Cassandra asks for one.")] = None
    password: Annotated[str | None, Meta(description="Of this user.", extra=SECRET)] = None
    password_file: Annotated[str | None, Meta(description="File with it.", extra=PATH)] = None
    ca: Annotated[
        str | None,
        Meta(
            description="PEM file of the authority of its certificates, which must name the "
            "nodes' IP addresses; turns TLS on.",
            extra=PATH,
        ),
    ] = None
    certificate: Annotated[str | None, Meta(description="PEM file for us.", extra=PATH)] = None
    key: Annotated[str | None, Meta(description="PEM file of its key.", extra=PATH)] = None
    request_timeout_ms: Annotated[
        int,
        Meta(ge=100, le=60_000, description="A request without an answer is repeated after it."),
    ] = 2_000
    connect_seconds: Annotated[
        int, Meta(ge=1, le=600, description="How long a starting node waits for an answer.")
    ] = 15
    read_seconds: Annotated[
        int, Meta(ge=1, le=600, description="Reads fail after it while Cassandra is away.")
    ] = 5
    write_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600,
            description="Writes wait so long for Cassandra to come back, then their senders get "
            "errors.",
        ),
    ] = 120


class Storage(Section, frozen=True, kw_only=True):
    """Where accounts and messages are kept."""

    backend: Annotated[
        Literal["sqlite", "cassandra"],
        Meta(description="sqlite: one file in data_dir. cassandra: see below."),
    ] = "sqlite"
    cassandra: Cassandra = field(default_factory=Cassandra)


class Archive(Section, frozen=True, kw_only=True):
    """The message archive (XEP-0313) with its search, and the inbox."""

    enabled: Annotated[
        bool,
        Meta(
            description="false: nothing is archived, and what was is kept and not shown; for one "
            "domain, disable its features."
        ),
    ] = True
    default: Annotated[
        Literal["always", "roster", "never"],
        Meta(
            description="What is archived for users who have set no preferences (XEP-0441): all, "
            "what concerns contacts in the roster, or nothing."
        ),
    ] = "always"
    inbox: Annotated[
        bool, Meta(description="Conversations with their unread messages; false saves that work.")
    ] = True
    retention_days: Annotated[
        int, Meta(ge=0, le=36_500, description="Older messages are deleted; 0: none ever.")
    ] = 0
    messages_per_account: Annotated[
        int,
        Meta(
            ge=0,
            description="Beyond that many the oldest are deleted, before long; 0: no limit.",
        ),
    ] = 0
    bin_days: Annotated[
        int,
        Meta(
            ge=0,
            le=36_500,
            description="Conversations in the box `bin` of the inbox are deleted so long after "
            "their last message; their messages stay in the archive; 0: only by their owner.",
        ),
    ] = 30
    page_max: Annotated[
        int, Meta(ge=1, le=1000, description="Messages in one page, whatever is asked for.")
    ] = 250
