# SPDX-License-Identifier: Apache-2.0
"""A run's figures as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from bench.scenarios import Scenario
from bench.server import Server
from bench.spread import Spread, short
from bench.targets import ROWS, Result, Row


class Run(TypedDict):
    """One repetition of one scenario on one server."""

    scenario: str
    server: str
    repetition: int
    result: Result


class Judged(TypedDict):
    """A row as it stands in the results file; figures by server."""

    scenario: str
    title: str
    unit: str
    medians: dict[str, float]
    rival: float | None
    figure: float | None
    ratio: float | None
    must: str
    aim: str
    verdict: str


Kinds = Sequence[type[Server]]


def results(runs: Sequence[Run], scenario: Scenario, server: str) -> list[Result]:
    """The repetitions of one cell of the table."""
    return [
        run["result"]
        for run in runs
        if run["scenario"] == scenario.name and run["server"] == server
    ]


def spreads(runs: Sequence[Run], row: Row, names: Sequence[str]) -> dict[str, Spread | None]:
    """By server."""
    return {name: row.spread(results(runs, row.scenario, name)) for name in names}


def judged(runs: Sequence[Run], row: Row, kinds: Kinds) -> Judged | None:
    """A row with its verdict; None if nobody was measured."""
    names = [*(kind.name for kind in kinds), *(row.pair or ())]
    found = {name: s for name, s in spreads(runs, row, names).items() if s is not None}
    if not found:
        return None
    tuned = [kind.name for kind in kinds if kind.is_rival and not kind.is_default]
    better = max if row.target.is_more_better else min
    rival = better((found[name].middle for name in tuned if name in found), default=None)
    figure = row.ours(found)
    ratio = row.target.ratio(figure, rival)
    must, aim = row.target.words()
    return {
        "scenario": row.scenario.name,
        "title": row.title,
        "unit": row.unit,
        "medians": {name: spread.middle for name, spread in found.items()},
        "rival": rival,
        "figure": figure,
        "ratio": None if ratio is None else round(ratio, 2),
        "must": must,
        "aim": aim,
        "verdict": row.target.verdict(figure, rival),
    }


def table(runs: Sequence[Run], kinds: Kinds) -> str:
    """Markdown: a row for each figure, a column for each server, the ratio and the verdict."""
    head = ["", "unit", *(kind.label for kind in kinds), "better rival / ours", "must", "aim", ""]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in ROWS:
        line = judged(runs, row, kinds)
        if line is None:
            continue
        ratio = "-" if line["ratio"] is None else f"{line['ratio']:.1f}x"
        if row.pair is not None:
            cells = [_pair(runs, row, line), *["-"] * (len(kinds) - 1)]
        else:
            found = spreads(runs, row, [kind.name for kind in kinds])
            cells = [str(spread) if spread else "-" for spread in found.values()]
        verdict = f"**{line['verdict']}**" if line["verdict"] == "missed" else line["verdict"]
        lines.append(
            _line([row.title, row.unit, *cells, ratio, line["must"], line["aim"], verdict])
        )
    return "\n".join(lines) + "\n"


def _pair(runs: Sequence[Run], row: Row, line: Judged) -> str:
    over, under = spreads(runs, row, row.pair or ()).values()
    factor = "-" if line["figure"] is None else f"{line['figure']:.3g}"
    named = ("with", "without") if row.is_difference else ("with two", "with one")
    return f"{factor}: {over or '-'} {named[0]}, {under or '-'} {named[1]}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_Asides = Mapping[str, Callable[[Result], float | None]]

ASIDES: _Asides = {
    "by the wall, per s": lambda result: result.get("rate_per_s"),
    "generator's own CPU, µs each": lambda result: result.get("generator_us_each"),
    "others' CPU, s": lambda result: result.get("other_cpu_s"),
}


def asides(runs: Sequence[Run], scenarios: Sequence[Scenario], labels: Mapping[str, str]) -> str:
    """Markdown: what lay around the figures. One line for each scenario and server."""
    head = ["scenario", "server", *ASIDES, "lost"]
    lines = [_line(head), _line(["---"] * len(head))]
    for scenario in scenarios:
        if scenario.kind in ("memory", "disk"):
            continue
        for name, label in labels.items():
            found = results(runs, scenario, name)
            if not found:
                continue
            cells = []
            for value_of in ASIDES.values():
                values = [value for one in found if (value := value_of(one)) is not None]
                cells.append(str(Spread.of(values) or "-"))
            lost = sum(one.get("lost", 0) + one.get("errors", 0) for one in found)
            lines.append(_line([scenario.title, label, *cells, short(lost)]))
    return "\n".join(lines) + "\n"
