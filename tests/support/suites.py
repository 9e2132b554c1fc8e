# SPDX-License-Identifier: Apache-2.0
"""Foreign test suites: lists of what is expected of them, three attempts, one verdict."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ATTEMPTS = 3


@dataclass(frozen=True)
class Result:
    """What one foreign test gave."""

    outcome: str
    """ok, failed, skipped or impossible."""
    text: str = ""


@dataclass
class Expectations:
    """A committed list: what runs, what fails and why, what is left out and why.

    `unstable` holds what fails or passes by the client's own timing, on any server.
    """

    run: list[str]
    failures: dict[str, str] = field(default_factory=dict)
    unstable: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, server: str) -> Expectations:
        """Reads a list; `[failures.SERVER]` holds for that server alone."""
        data = tomllib.loads(path.read_text())
        failures = dict(data.get("failures", {}).get(server, {}))
        unstable = dict(data.get("unstable", {}))
        return cls(list(data["run"]), failures, unstable, dict(data.get("left_out", {})))


Runner = Callable[[list[str]], dict[str, Result]]


def judge(runner: Runner, expected: Expectations) -> list[str]:
    """Runs all at once, what failed alone up to three times; the complaints, one a line.

    A suite that breaks off is continued with what it left, up to three times. A test counts as
    failed when it fails three times alone. An expected failure that passes is a complaint too,
    so that the list never says more than is true.
    """
    seen: dict[str, Result] = {}
    for _ in range(ATTEMPTS):
        left = [name for name in expected.run if name not in seen]
        if not left:
            break
        seen |= runner(left)
    complaints = []
    for name in expected.run:
        found = _verdict(name, seen.get(name, Result("not run")), runner, expected)
        if found:
            complaints.append(f"{name}: {found}")
    return complaints


def _verdict(name: str, result: Result, runner: Runner, expected: Expectations) -> str:
    reason = expected.failures.get(name)
    if result.outcome == "ok":
        return "" if reason is None else f"passes, though expected to fail: {reason}"
    if reason is not None or name in expected.unstable:
        return ""
    for _ in range(ATTEMPTS):
        result = runner([name]).get(name, Result("not run"))
        if result.outcome == "ok":
            return ""
    return f"{result.outcome} three times alone\n{result.text}"


def summary(complaints: list[str], expected: Expectations) -> str:
    """The text of a failed suite."""
    return f"{len(complaints)} of {len(expected.run)} foreign tests:\n" + "\n".join(complaints)
