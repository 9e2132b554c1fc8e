# SPDX-License-Identifier: Apache-2.0
"""Dates and times on the wire (XEP-0082)."""

from datetime import UTC, datetime


def utc_text(moment: datetime) -> str:
    """`2026-06-30T12:00:00Z`: the dateTime profile in UTC, whole seconds (XEP-0082 §3.2)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_ms(ms: int) -> datetime:
    """The moment this many milliseconds after 1970, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
