# SPDX-License-Identifier: Apache-2.0
"""The invariants of a cluster at length: `python -m cluster.chaos [pytest arguments]`.

Runs tests/cluster with many repetitions, then writes what was done and found to
benchmarks/results/chaos-DATE-COMMIT.md, with a picture of the figures. The exit code is pytest's.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

from support.server import ROOT

from .support.build import other_build
from .support.node import OTHER_BUILD

RESULTS = ROOT / "benchmarks" / "results"
LONG = {
    "CHAOS_REPEAT": "50",
    "CHAOS_ETCD_S": "60",
    "CHAOS_STORE_S": "60",
    "CHAOS_FREEZE_S": "12",
    "CHAOS_CUT_S": "12",
    "CHAOS_SESSIONS": "20000",
    "CHAOS_FLOOD": "5000",
}
MOST_DOTS = 400


@dataclass(frozen=True)
class Outcome:
    """One test of the run."""

    name: str
    is_passed: bool
    took_s: float
    said: str
    """What it printed, and why it failed."""


@dataclass
class Figure:
    """What was measured under one name."""

    what: str
    unit: str
    values: list[float]

    @property
    def cells(self) -> str:
        """A row of the table."""
        ordered = sorted(self.values)
        p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        numbers = " | ".join(f"{v:.3g}" for v in (median(ordered), p99, ordered[-1]))
        return f"| {self.what} | {self.unit} | {len(ordered)} | {numbers} |"


def main() -> int:
    """Runs, writes, tells; 0 if everything held."""
    given = {name: os.environ.get(name, value) for name, value in LONG.items()}
    given.setdefault("CHAOS_SEED", os.environ.get("CHAOS_SEED", str(random.randrange(1_000_000))))
    given[OTHER_BUILD] = os.environ.get(OTHER_BUILD) or _other_build()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="antiphon-chaos-") as name:
        folder = Path(name)
        report, figures = folder / "report.xml", folder / "figures.jsonl"
        command = [
            sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "cluster"),
            f"--junitxml={report}", "-o", "junit_logging=system-out", *sys.argv[1:],
        ]  # fmt: skip
        environment = {**os.environ, **given, "CHAOS_FIGURES": str(figures)}
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if not report.exists():
            return done.returncode or 1
        outcomes, measured = _outcomes(report), _figures(figures)
    base = RESULTS / f"chaos-{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H%M}-{_commit()}"
    picture = _draw(measured, base.with_suffix(".svg"))
    minutes = (time.monotonic() - begun) / 60
    base.with_suffix(".md").write_text(_text(given, outcomes, measured, minutes, picture))
    print(f"chaos: benchmarks/results/{base.name}.md")
    return done.returncode


def _other_build() -> str:
    """The folder of the build that R2 runs beside this one; empty, and said, if it does not build."""
    try:
        return str(other_build())
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"chaos: no other build, R2 runs with this one under two numbers: {error}")
        return ""


def _outcomes(report: Path) -> list[Outcome]:
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [child for child in case if child.tag in ("failure", "error", "skipped")]
        said = "".join(child.text or "" for child in case if child.tag == "system-out")
        why = faults[0].get("message", "") if faults else ""
        took_s = float(case.get("time", "0"))
        found.append(Outcome(case.get("name", ""), not faults, took_s, why or said.strip()))
    return found


def _figures(path: Path) -> list[Figure]:
    found: dict[tuple[str, str], Figure] = {}
    rows = path.read_text().splitlines() if path.exists() else []
    for row in map(json.loads, rows):
        figure = found.setdefault((row["what"], row["unit"]), Figure(row["what"], row["unit"], []))
        figure.values += row["values"]
    return [figure for figure in found.values() if figure.values]


def _text(
    given: dict[str, str],
    outcomes: Sequence[Outcome],
    figures: Sequence[Figure],
    minutes: float,
    picture: str,
) -> str:
    failed = [one for one in outcomes if not one.is_passed]
    processors = os.cpu_count()
    lines = [
        f"# Chaos: {len(outcomes) - len(failed)} of {len(outcomes)} tests held",
        "",
        f"`make chaos`, commit {_commit()}; {minutes:.0f} minutes on {processors} processors "
        f"({platform.machine()}, Linux {platform.release().split('-')[0]}). Three nodes, etcd of "
        "three members, one Cassandra, each in a network namespace, all on this machine.",
        "",
        *(f"- {name} = {_shown(value)}" for name, value in sorted(given.items())),
        "",
        "In every trial with a load: messages that were acknowledged and are not in both archives "
        "exactly once, doubled, reordered per pair, delivered to the wrong user, and archive ids "
        "that go back, are counted; any one of them fails it.",
        "",
        "| figure | unit | n | median | p99 | most |",
        "| --- | --- | --- | --- | --- | --- |",
        *(figure.cells for figure in figures),
        "",
        *([f"![figures]({picture})", ""] if picture else []),
        "| test | held | s |",
        "| --- | --- | --- |",
        *(
            f"| {one.name} | {'yes' if one.is_passed else '**no**'} | {one.took_s:.0f} |"
            for one in outcomes
        ),
        "",
    ]
    for one in failed:
        lines += [f"## {one.name}", "", "```", one.said[:3_000], "```", ""]
    loads = [
        f"- {one.name}: {line}"
        for one in outcomes
        for line in one.said.splitlines()
        if " users: " in line
    ]
    return "\n".join([*lines, "## Loads", "", *loads]) + "\n"


def _shown(value: str) -> str:
    """Without the folders of this machine."""
    return Path(value).name if "/" in value else value or "none"


def _draw(figures: Sequence[Figure], path: Path) -> str:
    """One panel for each figure in seconds: every value a dot. The file's name; empty: none."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from bench import plots  # noqa: PLC0415  the harness is no package of the tests

    shown = [figure for figure in figures if figure.unit == "s"]
    if not shown or not plots.is_possible():
        return ""
    from matplotlib import pyplot as plt  # noqa: PLC0415  see is_possible

    drawing, axis = plt.subplots(figsize=(8.5, 1.0 + 0.5 * len(shown)))
    for place, figure in enumerate(reversed(shown)):
        values = figure.values[:MOST_DOTS]
        axis.plot(values, [place] * len(values), "o", color=plots.OURS, alpha=0.4, markersize=4)
        axis.plot(median(values), place, "|", color="black", markersize=14)
    axis.set_yticks(range(len(shown)), [figure.what for figure in reversed(shown)], fontsize=8)
    axis.set_xlabel("seconds, one dot a value, the line is the median")
    axis.set_xlim(left=0)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path)
    plt.close(drawing)
    return path.name


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
