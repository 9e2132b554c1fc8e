# SPDX-License-Identifier: Apache-2.0
"""What the calls of `storage.api` give back."""

from datetime import datetime

from msgspec import Struct

from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import Element


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
