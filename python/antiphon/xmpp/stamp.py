# SPDX-License-Identifier: Apache-2.0
"""Dates and times on the wire (XEP-0082)."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_DATE_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,32}))?(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def utc_text(moment: datetime) -> str:
    """`2026-06-30T12:00:00Z`: the dateTime profile in UTC, whole seconds (XEP-0082 §3.2)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_ms_text(moment: datetime) -> str:
    """`2026-06-30T12:00:00.123Z`: the same to the millisecond, as archives keep it."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return f"{text.removesuffix('+00:00')}Z"


def parse_stamp(text: str) -> datetime:
    """The moment of a dateTime (XEP-0082 §3.2), in UTC; what is finer than a microsecond is cut.

    A leap second is the beginning of the next minute. Raises ValueError for anything else, years
    before 1 and behind 9999 included.
    """
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a dateTime of XEP-0082")
    *numbers, fraction, sign, hours, minutes = match.groups()
    year, month, day, hour, minute, second = map(int, numbers)
    extra = timedelta(seconds=1) if second == 60 else timedelta()
    zone = timedelta()
    if sign is not None:
        zone = timedelta(hours=int(hours), minutes=int(minutes))
        zone = -zone if sign == "-" else zone
    micros = int((fraction or "").ljust(6, "0")[:6])
    try:
        moment = (
            datetime(year, month, day, hour, minute, min(second, 59), micros, timezone(zone))
            + extra
        )
        return moment.astimezone(UTC)
    except OverflowError as err:
        raise ValueError("a date out of range") from err


def from_ms(ms: int) -> datetime:
    """The moment this many milliseconds after 1970, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
