# SPDX-License-Identifier: Apache-2.0
"""The files of a run: written after each row, so that a run that is broken off leaves its own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import plots, report
from bench.campaign import WORKERS, Campaign
from bench.scenarios import Scenario
from bench.targets import ROWS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def replace(path: Path, text: str) -> None:
    """Nobody sees half of it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def base_name(commit: object, suffix: str = "") -> Path:
    """Where a run that begins now leaves its files, without what tells their kind."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{stamp}-{commit}{suffix}"


@dataclass(frozen=True)
class Results:
    """What is written, and where."""

    base: Path
    about: dict[str, object]
    facts: Sequence[str]
    scenarios: Sequence[Scenario]

    def save(self, campaign: Campaign, *, is_complete: bool = False, is_over: bool = False) -> str:
        """Figures and tables, and if the run is over the plots; the first table is returned."""
        runs, kinds = campaign.runs, campaign.kinds
        rows = [row for one in ROWS if (row := report.judged(runs, one, kinds)) is not None]
        document = {
            **self.about,
            "is_complete": is_complete,
            "seconds": round(campaign.progress.elapsed_s),
            "rows": rows,
            "failures": campaign.failures,
            "runs": runs,
        }
        replace(self._named(".json"), json.dumps(document, indent=1) + "\n")
        labels = {kind.name: kind.label for kind in (*kinds, *WORKERS)}
        pictures = self._pictures(campaign, rows, labels) if is_over else []
        table = report.table(runs, kinds)
        lines = [
            f"# {self.base.name}",
            "",
            *([] if is_complete else [self._warning(campaign), ""]),
            *self.facts,
            f"- {campaign.progress.elapsed_s / 60:.1f} minutes",
            "",
            table,
            *(f"- left out: {text.splitlines()[0]}" for text in campaign.failures),
            *self._shortened(campaign),
            "",
            "## Around the figures",
            "",
            report.asides(runs, self.scenarios, labels),
            *(f"![{name}]({name})" for name in pictures),
        ]
        replace(self._named(".md"), "\n".join(lines) + "\n")
        return table

    def _named(self, ending: str) -> Path:
        return self.base.with_name(self.base.name + ending)

    def _warning(self, campaign: Campaign) -> str:
        found = {run["scenario"] for run in campaign.runs}
        return (
            f"**Interrupted**: figures of {len(found)} of {len(self.scenarios)} rows, "
            "not all repetitions of them."
        )

    def _shortened(self, campaign: Campaign) -> list[str]:
        count = campaign.progress.left_out
        return [f"- repetitions that there was no time for: {count}"] if count else []

    def _pictures(
        self, campaign: Campaign, rows: Sequence[report.Judged], labels: dict[str, str]
    ) -> list[str]:
        """Draws them; their names."""
        if not plots.is_possible():
            return []
        names: list[str] = []
        path = self._named(".png")
        if plots.overview(rows, path):
            names.append(path.name)
        for scenario in self.scenarios:
            path = self._named(f"-{scenario.name}.png")
            if plots.plot(campaign.runs, scenario, labels, path):
                names.append(path.name)
        return names
