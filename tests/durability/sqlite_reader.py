# SPDX-License-Identifier: Apache-2.0
"""Reads archives and inboxes from the SQLite file, without a line of the server's code.

The schema is that of rust/store/migrations/sqlite/0002_archive.sql, the form of a stanza that of
rust/store/src/sqlite/content.rs.
"""

from __future__ import annotations

import re
import sqlite3
from functools import lru_cache
from html import unescape
from pathlib import Path

import zstandard

from support.server import ROOT

from .ledger import Row

FILE = "antiphon.db"
DICTIONARY = ROOT / "rust" / "store" / "dictionary" / "stanza-1.zdict"
MAGIC = b"\x28\xb5\x2f\xfd"
BODY = re.compile(rb"<body>([^<]*)</body>")
OUT = 1

ROWS = """
SELECT o.localpart, a.id, a.flags, c.jid, m.stanza
FROM archive AS a
JOIN owner AS o ON o.id = a.owner
LEFT JOIN conversation AS c ON c.id = a.conversation
LEFT JOIN message AS m ON m.key = COALESCE(a.content, a.uid, a.id)
ORDER BY a.owner, a.id
"""
STRAYS = """
SELECT
  (SELECT count(*) FROM message WHERE key NOT IN
     (SELECT COALESCE(content, uid, id) FROM archive)),
  (SELECT count(*) FROM archive AS a WHERE NOT EXISTS
     (SELECT 1 FROM thread AS t WHERE t.conversation = a.conversation AND t.id = a.id)),
  (SELECT count(*) FROM thread) - (SELECT count(*) FROM archive)
"""
UNREAD = """
SELECT o.localpart, c.jid, c.unread
FROM conversation AS c JOIN owner AS o ON o.id = c.owner
WHERE c.last_id IS NOT NULL
"""


class FileDamaged(AssertionError):
    """SQLite says that the file is not whole, or its tables do not fit together."""


def number_of(address: str) -> int:
    """The number of one of the crowd, by address or localpart; -1 for anybody else."""
    found = re.fullmatch(r"p(\d{3})(@.*)?", address)
    return int(found[1]) if found else -1


class SqliteReader:
    """The database in a folder, which nobody else has open; it is recovered from its log."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / FILE)

    def close(self) -> None:
        """Lets the file go."""
        self._db.close()

    def check(self) -> None:
        """Raises `FileDamaged` unless the file is whole and its tables agree."""
        try:
            (said,) = self._db.execute("PRAGMA integrity_check").fetchone()
            strays = self._db.execute(STRAYS).fetchone()
        except sqlite3.DatabaseError as error:
            raise FileDamaged(str(error)) from error
        if said != "ok" or strays != (0, 0, 0):
            raise FileDamaged(f"{said}; content nobody has, rows without thread, threads: {strays}")

    def archives(self) -> dict[int, list[Row]]:
        """Every archive, oldest first."""
        found: dict[int, list[Row]] = {}
        for owner, id_, flags, peer, stanza in self._db.execute(ROWS):
            number = number_of(owner)
            if number >= 0 and (text := body_of(stanza)) is not None:
                row = Row(str(id_), number_of(peer or ""), bool(flags & OUT), text)
                found.setdefault(number, []).append(row)
        return found

    def inboxes(self) -> dict[int, dict[int, int]]:
        """Unread messages by user and peer."""
        found: dict[int, dict[int, int]] = {}
        for owner, peer, unread in self._db.execute(UNREAD):
            found.setdefault(number_of(owner), {})[number_of(peer)] = unread
        return found


@lru_cache(maxsize=1)
def _unpacker() -> zstandard.ZstdDecompressor:
    dictionary = zstandard.ZstdCompressionDict(DICTIONARY.read_bytes())
    return zstandard.ZstdDecompressor(dict_data=dictionary)


def body_of(stored: bytes | None) -> str | None:
    """The body in a stored stanza; `None` for a stanza without one.

    Raises `FileDamaged` for content that is missing or has no form that is known.
    """
    if stored is None:
        raise FileDamaged("an archived message without content")
    form, content = stored[0], stored[1:]
    if form == 2:
        content = _unpacker().decompress(MAGIC + content)
    elif form not in (0, 1):
        raise FileDamaged(f"a stanza of the unknown form {form}")
    found = BODY.search(content)
    return None if found is None else unescape(found[1].decode())
