# SPDX-License-Identifier: Apache-2.0
"""The files that the rules are about."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows and that exist, by pathspec."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--", *patterns]
    listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def name(path: Path) -> str:
    """As people write it."""
    return path.relative_to(ROOT).as_posix()
