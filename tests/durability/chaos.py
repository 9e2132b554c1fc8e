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
from dataclasses import asdict
from pathlib import Path

from support.cassandra import Cassandra, Settings
from support.keyspaces import Keyspaces
from support.server import ROOT

from . import trials
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
    if options.store == "sqlite":
        return _run(options, report, random.Random(seed), None)
    with Cassandra(Settings(sync="batch")) as ring:
        return _run(options, report, random.Random(seed), Keyspaces(ring.contact_points))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "chaos")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0, help="of load before the cuts")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--store", choices=("sqlite", "cassandra"), default="sqlite")
    parser.add_argument("--seed", type=int)
    return parser.parse_args()


def _run(
    options: argparse.Namespace,
    report: dict[str, object],
    dice: random.Random,
    keyspaces: Keyspaces | None,
) -> int:
    begun = time.monotonic()
    is_right = True

    def node() -> Mortal:
        made = Mortal.make()
        if keyspaces is not None:
            made.contact_points, made.keyspace = keyspaces.contact_points, keyspaces.new()
        made.start()
        return made

    def tell(name: str, figures: trials.Figures, *, is_expected: bool) -> None:
        nonlocal is_right
        is_right &= is_expected
        print(f"{name}: {figures}\n{figures.findings}", flush=True)
        report[name] = {
            **asdict(figures),
            "findings": figures.findings.counts,
            "examples": str(figures.findings),
            "per_second": round(figures.rate),
            "is_as_expected": is_expected,
        }

    if options.kills:
        mortal = node()
        try:
            crowd = Crowd(mortal.people(options.people))
            figures = asyncio.run(trials.kills(mortal, crowd, options.kills, dice))
        finally:
            mortal.remove()
        tell("kills", figures, is_expected=not figures.findings)
    if options.cuts and keyspaces is None:
        mortal = node()
        try:
            crowd = Crowd(mortal.people(options.people))
            figures, control = asyncio.run(
                trials.power(mortal, crowd, options.seconds, options.cuts, dice)
            )
        finally:
            mortal.remove()
        tell("power cuts", figures, is_expected=not figures.findings)
        tell("control, a disk that lies", control, is_expected=bool(control.findings))
    if keyspaces is not None:
        keyspaces.drop()
    report["seconds"] = round(time.monotonic() - begun)
    report["is_right"] = is_right
    _write(options.folder, report)
    return 0 if is_right else 1


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
