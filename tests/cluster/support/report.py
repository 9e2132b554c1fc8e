# SPDX-License-Identifier: Apache-2.0
"""The report of `make chaos`: one page and a picture of what its rounds found."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from support.server import ROOT

from .rounds import Outcome, Rounds

MOST_DOTS = 400
_COUNTED = (
    "sent",
    "acknowledged",
    "sent again",
    "seen",
    "sessions dropped",
    "resumed",
    "errors",
)


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


def write(rounds: Rounds, base: Path, commit: str) -> None:
    """Writes `base`.md and `base`.svg."""
    measured = _figures(rounds)
    picture = _draw(measured, base.with_suffix(".svg"))
    base.with_suffix(".md").write_text(_text(rounds, commit, measured, picture))


def _figures(rounds: Rounds) -> list[Figure]:
    found: dict[tuple[str, str], Figure] = {}
    for one in rounds.rounds:
        for what, unit, values in one.figures:
            found.setdefault((what, unit), Figure(what, unit, [])).values.extend(values)
    return [figure for figure in found.values() if figure.values]


def _text(rounds: Rounds, commit: str, figures: Sequence[Figure], picture: str) -> str:
    failed = rounds.failed
    tried = [outcome for one in rounds.rounds for outcome in one.outcomes]
    minutes = sum(one.minutes for one in rounds.rounds)
    listed = ", ".join(f"{one.repetitions} (seed {one.seed})" for one in rounds.rounds)
    lines = [
        f"# Chaos: {len(tried) - len(failed)} of {len(tried)} runs of tests held, "
        f"{rounds.repetitions} repetitions of each invariant",
        "",
        f"`make chaos`, commit {commit}, sources {rounds.product}; {minutes:.0f} minutes on "
        f"{os.cpu_count()} processors ({platform.machine()}, Linux "
        f"{platform.release().split('-')[0]}). Three nodes, etcd of three members, one Cassandra, "
        "each in a network namespace, all on this machine.",
        "",
        f"- Repetitions, round by round: {listed}. In the first round every test, with:",
        *(f"- {name} = {_shown(value)}" for name, value in sorted(rounds.given.items())),
        "- Later rounds: the tests that repeat, with outages as short as in `make test`.",
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
        *_table(tried),
        "",
    ]
    for one in failed:
        lines += [f"## {one.name}: {one.verdict}", "", "```", one.said[:3_000], "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(outcomes: Iterable[Outcome]) -> list[str]:
    """Of each test: how often it held, and the sums of its loads."""
    by_name: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by_name.setdefault(one.name, []).append(one)
    rows = [
        f"| test | held | s | {' | '.join(_COUNTED)} |",
        "| --- " * (3 + len(_COUNTED)) + "|",
    ]
    for name, runs in by_name.items():
        held = sum(one.verdict == "held" for one in runs)
        share = f"{held} of {len(runs)}"
        sums = [_counted(runs, what) for what in _COUNTED]
        rows.append(
            f"| {name} | {share if held == len(runs) else f'**{share}**'} "
            f"| {sum(one.took_s for one in runs):.0f} "
            f"| {' | '.join(str(value) if any(sums) else '' for value in sums)} |"
        )
    return rows


def _counted(runs: Iterable[Outcome], what: str) -> int:
    """The sum over what loads have said of themselves (`str(Load)`)."""
    said = [line for one in runs for line in one.said.splitlines() if " users: " in line]
    return sum(
        int(found[1]) for line in said if (found := re.search(rf"(\d+) {what}\b(?! again)", line))
    )


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
