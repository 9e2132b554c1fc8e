# SPDX-License-Identifier: Apache-2.0
"""Whether the compiled library belongs to the sources beside it; only a checkout has both."""

from __future__ import annotations

import hashlib
from pathlib import Path

from antiphon import _core

ROOT = Path(__file__).resolve().parents[2]
_KINDS = (".rs", ".toml", ".sql")
_LEFT_OUT = frozenset(("fuzz", "tests", "examples", "target"))


def source_digest(root: Path = ROOT) -> str | None:
    """The digest as `rust/ext/build.rs` computes it; None where there are no sources."""
    rust = root / "rust"
    if not (rust / "ext" / "build.rs").is_file():
        return None
    found: list[tuple[str, Path]] = []
    folders = [rust]
    while folders:
        for path in folders.pop().iterdir():
            if path.is_dir():
                if path.name not in _LEFT_OUT:
                    folders.append(path)
            elif path.suffix in _KINDS:
                found.append((path.relative_to(rust).as_posix(), path))
    digest = hashlib.sha256()
    for name, path in sorted(found):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def is_stale() -> bool:
    """Whether the library was built from other sources than those that lie here."""
    digest = source_digest()
    return digest is not None and digest != _core.DIGEST
