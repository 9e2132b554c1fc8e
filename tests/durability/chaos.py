# SPDX-License-Identifier: Apache-2.0
"""The durability trials at length: `python -m durability.chaos --folder REPORTS`.

Writes a report of what was done and found; the exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from support.cassandra import Cassandra, Settings
from support.keyspaces import Keyspaces
from support.server import ROOT

from . import outage, trials
from .crowd import Crowd
from .node import Mortal


def main() -> int:
    """Runs what was asked for; 0 if nothing was lost, doubled, reordered or miscounted."""
    options = _options()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    report: dict[str, object] = {
        "commit": _commit(),
        "machine": f"{platform.machine()}, {platform.release()}",
        "store": options.store,
        "seed": seed,
        "people": options.people,
    }
    dice = random.Random(seed)
    if options.store == "sqlite":
        return 0 if _Chaos(options, report, dice, None).run() else 1
    with Cassandra(Settings(sync="batch")) as ring:
        return 0 if _Chaos(options, report, dice, ring).run() else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "chaos")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5, help="with power cuts")
    parser.add_argument("--cuts", type=int, default=40, help="of each run")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load before the cuts")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--store", choices=("sqlite", "cassandra"), default="sqlite")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without Cassandra")
    parser.add_argument("--seed", type=int)
    return parser.parse_args()


class _Chaos:
    """One run of all trials, and its report."""

    def __init__(
        self,
        options: argparse.Namespace,
        report: dict[str, object],
        dice: random.Random,
        ring: Cassandra | None,
    ) -> None:
        self._options, self._report, self._dice = options, report, dice
        self._ring = ring
        self._keyspaces = None if ring is None else Keyspaces(ring.contact_points)
        self._is_right = True

    def run(self) -> bool:
        """Whether all was as it must be; the report is written."""
        begun = time.monotonic()
        options, dice = self._options, self._dice
        if options.kills:
            with self._node() as node:
                crowd = Crowd(node.people(options.people))
                figures = asyncio.run(
                    trials.kills(node, crowd, options.kills, dice, longest_s=1.0, cut_s=2.0)
                )
                self._tell("kills", figures)
            with self._node() as node:
                crowd = Crowd(node.people(options.people))
                self._tell("lost connections", asyncio.run(trials.drops(node, crowd, 20.0, 0.5)))
        if self._ring is not None and options.outage:
            self._outage(self._ring)
        for number in range(0 if self._ring is not None else options.runs):
            with self._node() as node:
                crowd = Crowd(node.people(options.people))
                figures, control = asyncio.run(
                    trials.power(node, crowd, options.seconds, options.cuts, dice)
                )
            self._tell(f"power cuts {number + 1}", figures)
            self._tell(f"a disk that lies {number + 1}", control, is_control=True)
        self._report["seconds"] = round(time.monotonic() - begun)
        self._report["is_right"] = self._is_right
        _write(options.folder, self._report)
        return self._is_right

    def _outage(self, ring: Cassandra) -> None:
        with self._node() as node:
            accounts = node.people(self._options.people + 2)
            crowd = Crowd(accounts[:-2], window=400)
            pair = (accounts[-2], accounts[-1])
            found = asyncio.run(outage.pause(node, ring, crowd, pair, self._options.outage))
        figures = {
            "seconds": self._options.outage,
            "delivered": len(found.delivered_s),
            "slowest_s": round(max(found.delivered_s, default=0.0), 3),
            "acknowledged_meanwhile": found.acknowledged,
            "grown_bytes": found.grown_bytes,
            "recovered_s": round(found.recovered_s, 1),
            "acknowledged": len(crowd.ledger.acknowledged),
            "findings": found.findings.counts,
            "examples": str(found.findings),
        }
        print(f"outage: {figures}", flush=True)
        self._is_right &= not found.findings and found.acknowledged == 0
        self._report["outage"] = figures

    @contextmanager
    def _node(self) -> Iterator[Mortal]:
        node = Mortal.make()
        if self._keyspaces is not None:
            node.contact_points = self._keyspaces.contact_points
            node.keyspace = self._keyspaces.new()
        try:
            node.start()
            yield node
        finally:
            node.remove()
            if self._keyspaces is not None:
                self._keyspaces.drop()

    def _tell(self, name: str, figures: trials.Figures, *, is_control: bool = False) -> None:
        is_expected = bool(figures.findings) == is_control
        self._is_right &= is_expected
        print(f"{name}: {figures}\n{figures.findings}", flush=True)
        self._report[name] = {
            **asdict(figures),
            "findings": figures.findings.counts,
            "examples": str(figures.findings),
            "per_second": round(figures.rate),
            "is_as_expected": is_expected,
        }


def _write(folder: Path, report: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y-%m-%d-%H%M')}-{report['commit']}-{report['store']}.json"
    (folder / name).write_text(json.dumps(report, indent=2) + "\n")
    print(folder / name)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
