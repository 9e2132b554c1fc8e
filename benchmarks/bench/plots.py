# SPDX-License-Identifier: Apache-2.0
"""A run's figures as pictures: medians as bars, every repetition a dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.report import Judged, Run, results
from bench.scenarios import Scenario
from bench.spread import short
from bench.targets import ROWS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = "#2a6f97"
THEIRS = "#9a9a9a"
MISSED = "#b23a48"
# Of a picture: kinds of searches have their rows in the table alone.
MOST_PANELS = 3


def is_possible() -> bool:
    """Whether matplotlib is there; the figures do not need it."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  optional
    except ImportError:
        return False
    mpl.use("Agg")
    return True


def plot(runs: Sequence[Run], scenario: Scenario, labels: Mapping[str, str], path: Path) -> bool:
    """One PNG with a panel for each row of the scenario. False if there is nothing to show."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  see is_possible

    if scenario.kind == "crossings":
        return False
    rows = [row for row in ROWS if row.scenario is scenario][:MOST_PANELS]
    shown = {name: label for name, label in labels.items() if results(runs, scenario, name)}
    if (
        not rows
        or not shown
        or not any(row.spread(results(runs, scenario, name)) for row in rows for name in shown)
    ):
        return False
    width = 1.2 + 1.05 * len(shown)
    figure, axes = plt.subplots(
        1, len(rows), figsize=(max(4.2, width) * len(rows), 3.8), squeeze=False
    )
    for axis, row in zip(axes[0], rows, strict=True):
        _panel(axis, row, runs, shown)
    is_mixed = any(row.target.is_more_better for row in rows)
    figure.suptitle(scenario.title + ("" if is_mixed else ": less is better"), fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _panel(axis: Axes, row: Row, runs: Sequence[Run], shown: Mapping[str, str]) -> None:
    for place, name in enumerate(shown):
        found = results(runs, row.scenario, name)
        values = [value for one in found if (value := row.value(one)) is not None]
        if not values:
            continue
        colour = OURS if name.startswith("antiphon") else THEIRS
        axis.bar(place, median(values), width=0.6, color=colour)
        axis.plot([place] * len(values), values, "o", color="black", markersize=3)
        axis.annotate(
            short(median(values)),
            (place, max(values)),
            textcoords="offset points",
            xytext=(0, 5),
            ha="center",
            fontsize=9,
        )
    axis.set_xticks(range(len(shown)), [label.replace(", ", "\n") for label in shown.values()])
    title = row.title.removeprefix("… ")
    axis.set_ylabel(row.unit if title == row.scenario.title else f"{title}, {row.unit}", fontsize=9)
    axis.margins(y=0.15)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def overview(rows: Sequence[Judged], path: Path) -> bool:
    """One PNG: how far each row is from what it must reach; False if there is nothing to show."""
    from matplotlib import pyplot as plt  # noqa: PLC0415  see is_possible

    shown = [row for row in rows if row["ratio"] is not None and row["must"].endswith("x")]
    if not shown:
        return False
    figure, axis = plt.subplots(figsize=(8.5, 1.2 + 0.36 * len(shown)))
    for place, row in enumerate(reversed(shown)):
        ratio = row["ratio"] or 0.0
        axis.barh(place, ratio, height=0.6, color=MISSED if row["verdict"] == "missed" else OURS)
        # Inside, at the axis, where no bound stands.
        axis.text(1.05, place, f"{ratio:.1f}x", va="center", fontsize=9, color="white")
        for bound, style in ((row["must"], "-"), (row["aim"], ":")):
            at = float(bound.removesuffix("x"))
            axis.plot([at, at], [place - 0.4, place + 0.4], style, color="black", linewidth=1.6)
    axis.set_yticks(range(len(shown)), [row["title"] for row in reversed(shown)])
    axis.set_xscale("log")
    axis.set_xlim(left=1)
    axis.margins(x=0.12)
    axis.set_xlabel("times cheaper than the better tuned rival; line: must, dots: aim", fontsize=9)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
