# SPDX-License-Identifier: Apache-2.0
"""One line for each mistake in a configuration: where it is and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Path = tuple[str | int, ...]
"""Where a value sits: keys and list indices from the top of the document."""


def dotted(path: Path) -> str:
    """The path as `toml_positions` writes it: `listener.0.address`."""
    return ".".join(str(part) for part in path)


def shown(path: Path) -> str:
    """The path as people read it: `listener[0].address`, `domain."other.example".key`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if part.replace("_", "").replace("-", "").isalnum() else f'"{part}"'
        text += f".{name}" if text else name
    return text


@dataclass(frozen=True)
class Problem:
    """A mistake, or with `is_warning` something that works otherwise than one may think."""

    where: str
    """File and line, or the name of the environment variable; empty when there is no place."""
    key: str
    text: str
    is_warning: bool = False
    line: int = 0
    """For the order; 0: no line."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.text) if part)


class ConfigProblems(Exception):
    """The configuration cannot be used; `problems` names every mistake, each one line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class Origin:
    """Where the values came from, to point at them later."""

    file: str | None = None
    """Name of the file as the operator wrote it; None for the embedded defaults."""
    positions: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in force, by dotted path."""

    def problem(
        self, path: Path, text: str, *, kind: Literal["error", "warning"] = "error"
    ) -> Problem:
        """A problem with the value at this path, or with the table that lacks it."""
        is_warning = kind == "warning"
        variable = self.variables.get(dotted(path))
        if variable is not None:
            return Problem(f"environment {variable}", shown(path), text, is_warning)
        line = self.line(path)
        where = self.file or ""
        if where and line is not None:
            where = f"{where}:{line}"
        return Problem(where, shown(path), text, is_warning, line or 0)

    def line(self, path: Path) -> int | None:
        """The line of the value, of the first thing in it, or of what it is in."""
        for end in range(len(path), 0, -1):
            key = dotted(path[:end])
            if key in self.positions:
                return self.positions[key]
            inner = [line for name, line in self.positions.items() if name.startswith(f"{key}.")]
            if inner:
                return min(inner)
        return None


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that this one was most likely meant to be."""
    found = difflib.get_close_matches(word, list(known), 1, cutoff)
    return found[0] if found else None


def choices(words: Iterable[str]) -> str:
    """`a, b or c`."""
    listed = [str(word) for word in words]
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} or {listed[-1]}"
