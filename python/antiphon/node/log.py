# SPDX-License-Identifier: Apache-2.0
"""Log records on standard error: one JSON object or one line of text each.

A record is an event: a constant message and fields. Bodies and passwords never come here; the
addresses of users are shortened to their domain above debug level unless `log.jids` is on.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Final, TextIO

from antiphon._core import Jid
from antiphon.config.schema import Log

ADDRESS_FIELDS: Final = frozenset(
    {"jid", "frm", "from", "to", "account", "user", "owner", "peer_jid"}
)
"""Fields that hold addresses as text."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_HANDLER_NAME: Final = "antiphon"


class _Fields(logging.Formatter):
    """What both forms share."""

    def __init__(self, *, shows_jids: bool) -> None:
        super().__init__()
        self._shows_jids = shows_jids

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The record's own fields, in a form that JSON has."""
        shows_jids = self._shows_jids or record.levelno <= logging.DEBUG
        return {
            key: _shown(key, value, shows_jids=shows_jids)
            for key, value in vars(record).items()
            if key not in _OWN
        }

    def trace(self, record: logging.LogRecord) -> str | None:
        """The traceback of a fault."""
        if record.exc_info is None or record.exc_info[0] is None:
            return None
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()


class JsonFormatter(_Fields):
    """`{"time": ..., "level": ..., "event": ..., "logger": ..., fields...}`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        document: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        for key, value in self.fields(record).items():
            document.setdefault(key, value)
        trace = self.trace(record)
        if trace is not None:
            document["trace"] = trace
        return json.dumps(document, ensure_ascii=False, default=str)


class TextFormatter(_Fields):
    """`12:34:56 warning event field=value`, for people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback of a fault below it."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        parts = [clock, f"{record.levelname.lower():7}", _plain(record.getMessage())]
        parts += [f"{key}={_plain(str(value))}" for key, value in self.fields(record).items()]
        trace = self.trace(record)
        return " ".join(parts) + (f"\n{trace}" if trace is not None else "")


def configure(log: Log, stream: TextIO | None = None) -> None:
    """Sends the records of everything to `stream` (standard error); may be called again."""
    target = stream if stream is not None else sys.stderr
    is_json = log.format == "json" or (log.format == "auto" and not target.isatty())
    kind = JsonFormatter if is_json else TextFormatter
    handler = logging.StreamHandler(target)
    handler.set_name(_HANDLER_NAME)
    handler.setFormatter(kind(shows_jids=log.jids))
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(log.level.upper())
    logging.captureWarnings(capture=True)
    # Its own debug records are about the loop, not about the node.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def timestamp(seconds: float) -> str:
    """`2026-01-31T12:34:56.789Z`"""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


def _shown(key: str, value: object, *, shows_jids: bool) -> object:
    if isinstance(value, Jid):
        return str(value) if shows_jids else _hidden(str(value))
    if isinstance(value, str):
        return value if shows_jids or key not in ADDRESS_FIELDS else _hidden(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_shown(key, each, shows_jids=shows_jids) for each in value]
    return str(value)


def _hidden(address: str) -> str:
    """`*@domain` for a user's address; a domain's own stays."""
    bare = address.partition("/")[0]
    local, at, domain = bare.rpartition("@")
    return f"*@{domain}" if at and local else bare


def _plain(text: str) -> str:
    """Without what would move the terminal's cursor or forge another line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
