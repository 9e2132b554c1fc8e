# SPDX-License-Identifier: Apache-2.0
"""A run's figures as a table and as plots: medians, and what lay around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypedDict

from bench.scenarios import Scenario


class Latency(TypedDict):
    """Milliseconds, of the generator's histogram."""

    count: int
    p50: float
    p99: float
    p99_9: float
    max: float


class Memory(TypedDict):
    """KiB."""

    rss_before: int
    rss_after: int
    rss_each: float
    pss_each: float
    private_each: float


class Result(TypedDict, total=False):
    """What the generator prints (benchmarks/load), as far as it is used here."""

    count: int
    rate_per_s: float
    server_ms_per_1000: float
    generator_us_each: float
    other_cpu_s: float
    errors: int
    lost: int
    latency_ms: Latency
    memory_kib: Memory


class Run(TypedDict):
    """One repetition of one scenario on one server."""

    scenario: str
    server: str
    repetition: int
    result: Result


Panel = tuple[str, Callable[[Sequence[Result]], list[float]]]
"""What an axis says, and the values of the repetitions."""


@dataclass(frozen=True)
class Spread:
    """A median and its extremes."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None without values."""
        return cls(median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return f"{_short(self.middle)} ({_short(self.least)}..{_short(self.most)})"


def _short(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def results(runs: Sequence[Run], scenario: Scenario, server: str) -> list[Result]:
    """The repetitions of one cell of the table."""
    return [
        run["result"]
        for run in runs
        if run["scenario"] == scenario.name and run["server"] == server
    ]


def cost(found: Sequence[Result], scenario: Scenario) -> list[float]:
    """CPU ms per 1,000, or KiB a connection."""
    if scenario.unit == "connection":
        return [result["memory_kib"]["rss_each"] for result in found]
    return [result["server_ms_per_1000"] for result in found if result["count"]]


def unit(scenario: Scenario) -> str:
    """What `cost` counts."""
    if scenario.unit == "connection":
        return "KiB of RSS per connection"
    return f"server CPU ms per 1,000 {_plural(scenario.unit)}"


def _plural(word: str) -> str:
    return "deliveries" if word == "delivery" else f"{word}s"


def table(
    runs: Sequence[Run], scenarios: Sequence[Scenario], servers: Sequence[tuple[str, str]]
) -> str:
    """Markdown: one row a scenario, one column a server, and the ratio to the better rival."""
    head = ["scenario", "unit", *(label for _, label in servers), "better rival / Antiphon"]
    lines = [_row(head), _row(["---"] * len(head))]
    for scenario in scenarios:
        spreads = {
            name: Spread.of(cost(results(runs, scenario, name), scenario)) for name, _ in servers
        }
        if not any(spreads.values()):
            continue
        cells = [str(spread) if spread else "-" for spread in spreads.values()]
        what = unit(scenario)
        lines.append(_row([scenario.title, what, *cells, _ratio(spreads)]))
        for name, rows in _secondary(runs, scenario, servers).items():
            lines.append(_row([f"… {name}", "", *rows, ""]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(spreads: dict[str, Spread | None]) -> str:
    ours = spreads.get("antiphon")
    rivals = [s.middle for name, s in spreads.items() if name != "antiphon" and s is not None]
    return f"{min(rivals) / ours.middle:.1f}x" if ours and rivals and ours.middle > 0 else "-"


def _secondary(
    runs: Sequence[Run], scenario: Scenario, servers: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    """The wall rate of a closed loop, or the latencies of an open one."""
    rows: dict[str, list[str]] = {}
    for name, _ in servers:
        found = results(runs, scenario, name)
        if scenario.unit == "connection":
            continue
        if scenario.has_latency:
            for key, title in (("p50", "p50 ms"), ("p99", "p99 ms"), ("p99_9", "p99.9 ms")):
                values = [float(r["latency_ms"][key]) for r in found if "latency_ms" in r]  # type: ignore[literal-required]
                rows.setdefault(title, []).append(str(Spread.of(values) or "-"))
        else:
            values = [r["rate_per_s"] for r in found]
            rows.setdefault("per second of wall time", []).append(str(Spread.of(values) or "-"))
    return rows


def plot(
    runs: Sequence[Run],
    scenario: Scenario,
    servers: Sequence[tuple[str, str]],
    path: Path,
) -> bool:
    """One PNG: every repetition a dot, medians as bars. False where matplotlib is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  optional: the figures do not need it
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError:
        return False
    mpl.use("Agg")
    panels: list[Panel] = [(unit(scenario), lambda r: cost(r, scenario))]
    if scenario.has_latency:
        panels.append(("p50 latency, ms", lambda r: [x["latency_ms"]["p50"] for x in r]))
        panels.append(("p99 latency, ms", lambda r: [x["latency_ms"]["p99"] for x in r]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 3.9 * len(panels), 3.6), squeeze=False
    )
    shown = [(name, label) for name, label in servers if results(runs, scenario, name)]
    for axis, (title, values_of) in zip(axes[0], panels, strict=True):
        for place, (name, _label) in enumerate(shown):
            values = values_of(results(runs, scenario, name))
            if not values:
                continue
            colour = "#2a6f97" if name == "antiphon" else "#9a9a9a"
            axis.bar(place, median(values), width=0.6, color=colour)
            axis.plot([place] * len(values), values, "o", color="black", markersize=3)
            axis.annotate(
                _short(median(values)),
                (place, max(values)),
                textcoords="offset points",
                xytext=(0, 5),
                ha="center",
                fontsize=9,
            )
        axis.set_xticks(range(len(shown)), [label.replace(", ", "\n") for _, label in shown])
        axis.set_ylabel(title, fontsize=9)
        axis.margins(y=0.15)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    figure.suptitle(f"{scenario.title} (less is better)", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True
