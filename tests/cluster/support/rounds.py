# SPDX-License-Identifier: Apache-2.0
"""What the rounds of `make chaos` found, kept in a file, so that a run can go on where it broke off."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from support.server import ROOT

PRODUCT = ("rust", "python", "proto", "Cargo.toml", "Cargo.lock", "pyproject.toml")
"""What is tried is made of these."""
MOST_SAID = 2_000
"""Characters that are kept of what a failed test printed."""


@dataclass(frozen=True)
class Outcome:
    """One test of a round."""

    name: str
    verdict: str
    """`held`, `failed` or `skipped`."""
    took_s: float
    said: str
    """What its loads said of themselves, or why it did not hold and what it printed last."""


@dataclass
class Round:
    """Every test once, each with so many repetitions."""

    repetitions: int
    seed: int
    minutes: float
    outcomes: list[Outcome]
    figures: list[tuple[str, str, list[float]]]
    """What was measured: name, unit, values."""


@dataclass
class Rounds:
    """Those of one product."""

    product: str
    """Its fingerprint: rounds of two products are not put together."""
    given: dict[str, str]
    rounds: list[Round] = field(default_factory=list)

    @property
    def repetitions(self) -> int:
        """How often each invariant was tried."""
        return sum(one.repetitions for one in self.rounds)

    @property
    def failed(self) -> list[Outcome]:
        """What did not hold, or was not tried."""
        return [one for each in self.rounds for one in each.outcomes if one.verdict != "held"]

    def write(self, path: Path) -> None:
        """Keeps them."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Rounds:
        """What `write` has kept."""
        found = json.loads(path.read_text())
        rounds = [
            Round(
                one["repetitions"],
                one["seed"],
                one["minutes"],
                [Outcome(**outcome) for outcome in one["outcomes"]],
                [(what, unit, values) for what, unit, values in one["figures"]],
            )
            for one in found["rounds"]
        ]
        return cls(found["product"], found["given"], rounds)


def product() -> str:
    """A fingerprint of the sources in the work tree. Raises `CalledProcessError` outside of git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *PRODUCT], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    made = hashlib.sha256()
    for name in sorted(filter(None, listed.split("\0"))):
        path = ROOT / name
        if path.is_file() and "/tests/" not in name:
            made.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return made.hexdigest()[:12]


def outcomes(report: Path) -> list[Outcome]:
    """The tests in a report of pytest (JUnit's format)."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error", "skipped")]
        said = "".join(child.text or "" for child in case if child.tag == "system-out")
        verdict, why = "held", "\n".join(line for line in said.splitlines() if " users: " in line)
        if faults:
            verdict = "skipped" if faults[0].tag == "skipped" else "failed"
            why = f"{faults[0].get('message', '')}\n{said.strip()[-MOST_SAID:]}"
        found.append(Outcome(case.get("name", ""), verdict, float(case.get("time", "0")), why))
    return found


def figures(path: Path) -> list[tuple[str, str, list[float]]]:
    """What `trial.note` has kept."""
    rows = path.read_text().splitlines() if path.exists() else []
    return [(row["what"], row["unit"], row["values"]) for row in map(json.loads, rows)]
