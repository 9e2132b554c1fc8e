# SPDX-License-Identifier: Apache-2.0
"""Stores that were filled before: kept in the user's cache, so that only the first run fills."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from bench.archives import AntiphonArchive, Filled

ROOT = Path(__file__).resolve().parents[2]
# What decides about the bytes of a store, by the patterns of Path.glob.
SOURCES = (
    "rust/store/src/sqlite/**/*", "rust/store/src/*", "rust/text/src/**/*",
    "rust/store/examples/fill_archive.rs", "rust/store/examples/archive/*",
    "benchmarks/bench/text.py", "benchmarks/bench/ours.py", "benchmarks/bench/accounts.py",
)  # fmt: skip
FIGURES = "filled.json"


def cache() -> Path:
    """Where everything is kept that a later run may use; half a gigabyte for a million messages."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "antiphon-bench"


def _key() -> str:
    """Another one whenever a store might be filled in another way."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern)}):
        if path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Stores:
    """SQLite's; a Cassandra of a run goes with it."""

    def __init__(self, fill: Path, words: Path) -> None:
        """`fill`: the program; `words`: what messages are made of."""
        self._fill = str(fill)
        self._words = str(words)
        self._base = cache()

    def has(self, messages: int) -> bool:
        """Whether a store of this size need not be filled."""
        return (self._folder(messages) / FIGURES).is_file()

    def put(self, server: AntiphonArchive, messages: int) -> Filled:
        """Fills the store of a server that is prepared, or copies one. Raises ServerError."""
        folder = self._folder(messages)
        if server.is_apart:
            return self._filled(server, messages)
        data = server.data
        if self.has(messages):
            shutil.rmtree(data)
            shutil.copytree(folder / "data", data)
            found: Filled = json.loads((folder / FIGURES).read_text())
            return found
        filled = self._filled(server, messages)
        self._base.mkdir(parents=True, exist_ok=True)
        for other in self._base.glob(f"sqlite-{messages}-*"):
            shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(data, folder / "data")
        # Last: a copy that was broken off has none.
        (folder / FIGURES).write_text(json.dumps(filled) + "\n")
        return filled

    def _filled(self, server: AntiphonArchive, messages: int) -> Filled:
        before = server.size_bytes()
        filled = server.fill(self._fill, self._words, messages)
        filled["grown_bytes"] = server.size_bytes() - before
        return filled

    def _folder(self, messages: int) -> Path:
        return self._base / f"sqlite-{messages}-{_key()}"
