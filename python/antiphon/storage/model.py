# SPDX-License-Identifier: Apache-2.0
"""What the calls of `storage.api` give back."""

from datetime import datetime

from msgspec import Struct

from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import Element, Stanza


class Activity(Struct, frozen=True):
    """When an account was last there. `at` is None if it never was; `status` is the text of its
    last unavailable presence."""

    at: datetime | None
    status: str
    is_online: bool


class SessionSummary(Struct, frozen=True):
    """A bound resource. `priority` and `presence` are None before initial presence."""

    jid: Jid
    priority: int | None
    presence: Element | None
    has_carbons: bool


class AccountSummary(Struct, frozen=True):
    """An account in a listing."""

    jid: Jid
    is_enabled: bool
    created: datetime


class ScramKeys(Struct, frozen=True):
    """Stored keys for one hash (`sha-1`, `sha-256`, `sha-512`): RFC 5802 §3."""

    hash: str
    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


class PageQuery(Struct, frozen=True, kw_only=True):
    """Which part of what is found (XEP-0059): what comes behind `after` and in front of `before`,
    ids both; from its end if `is_from_end`, else from its beginning; at most `max`, 1,000 at
    most."""

    after: str | None = None
    before: str | None = None
    is_from_end: bool = False
    max: int


class ArchiveQuery(Struct, frozen=True, kw_only=True):
    """Which messages of an archive (XEP-0313 #filter); all conditions hold together.

    `with_jid` bare: any of its resources; the owner's own: only messages to himself. `start` and
    `end` include their moment, the ids do not include their message. `ids`: only these, 1,000 at
    most. `text` is a search as XEP-0431 has it."""

    with_jid: Jid | None = None
    start: datetime | None = None
    end: datetime | None = None
    after_id: str | None = None
    before_id: str | None = None
    ids: tuple[str, ...] | None = None
    text: str | None = None
    has_groupchat: bool = True


class PageForm(Struct, frozen=True, kw_only=True):
    """How a page is given: the dialect's namespace (`urn:xmpp:mam:2`, `:1`, `:0` or `:tmp`), the
    client's `queryid`, newest first, and whether its answer counts all that the query finds."""

    ns: str
    query_id: str | None = None
    is_flipped: bool = False
    has_count: bool = False


class ArchivePage(Struct, frozen=True):
    """A page that was given. `first` and `last` are its oldest and its newest message, flipped or
    not, None if it is empty; `count` is None where nobody asked, or counting would be reading."""

    first: str | None
    last: str | None
    count: int | None
    is_complete: bool
    is_stable: bool


class ArchiveRow(Struct, frozen=True):
    """A message of an archive."""

    id: str
    at: datetime
    is_out: bool
    message: Stanza


class ArchiveRows(Struct, frozen=True):
    """Messages, oldest first."""

    rows: tuple[ArchiveRow, ...]
    is_complete: bool


class ArchiveEnd(Struct, frozen=True):
    """The first or the last message of an archive."""

    id: str
    at: datetime


class ArchiveEnds(Struct, frozen=True):
    """Both."""

    first: ArchiveEnd
    last: ArchiveEnd


class Collection(Struct, frozen=True):
    """A conversation on one UTC day, by its first message."""

    with_jid: Jid
    id: str
    start: datetime


class ArchivePrefs(Struct, frozen=True):
    """Who is archived (XEP-0441); `default` is always, roster or never."""

    default: str
    always: tuple[Jid, ...]
    never: tuple[Jid, ...]


class InboxQuery(Struct, frozen=True, kw_only=True):
    """Which conversations, by the time of their last message. `box` None: any but `bin`; `all`:
    any."""

    start: datetime | None = None
    end: datetime | None = None
    is_unread_only: bool = False
    box: str | None = None
    is_ascending: bool = False


class InboxPage(Struct, frozen=True):
    """Conversations that were given. `first` and `last` are positions, None without any; the
    counts (conversations, unread messages, conversations with some) are those of all that the
    query finds."""

    first: str | None
    last: str | None
    count: int
    unread: int
    active: int
    is_complete: bool


class InboxEntry(Struct, frozen=True):
    """One conversation, with the id and the time of its last message. A `muted_until` that has
    passed is given as it is."""

    peer: Jid
    last_id: str
    at: datetime
    unread: int
    box: str
    muted_until: datetime | None
    message: Element | None
