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
    """A committed list: what runs, what may fail and why, what is left out and why."""

    run: list[str]
    failures: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, server: str) -> Expectations:
        """Reads a list; `[failures.SERVER]` holds for that server alone."""
        data = tomllib.loads(path.read_text())
        failures = dict(data.get("failures", {}).get(server, {}))
        return cls(list(data["run"]), failures, dict(data.get("left_out", {})))


Runner = Callable[[list[str]], dict[str, Result]]


def judge(runner: Runner, expected: Expectations) -> list[str]:
    """Runs all at once, what failed alone up to three times; the complaints, one a line.

    A test counts as failed when it fails three times alone. An expected failure that passes is
    a complaint too, so that the list never says more than is true.
    """
    first = runner(expected.run)
    complaints = [f"{name}: not run" for name in expected.run if name not in first]
    for name, result in first.items():
        reason = expected.failures.get(name)
        if result.outcome == "ok":
            if reason is not None:
                complaints.append(f"{name}: passes, though expected to fail: {reason}")
            continue
        if reason is not None:
            continue
        last = result
        for _ in range(ATTEMPTS):
            last = runner([name]).get(name, last)
            if last.outcome == "ok":
                break
        else:
            complaints.append(f"{name}: {last.outcome} three times alone\n{last.text}")
    return complaints


def summary(complaints: list[str], expected: Expectations) -> str:
    """The text of a failed suite."""
    return f"{len(complaints)} of {len(expected.run)} foreign tests:\n" + "\n".join(complaints)
