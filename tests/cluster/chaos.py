# SPDX-License-Identifier: Apache-2.0
"""The invariants of a cluster at length: `python -m cluster.chaos [pytest arguments]`.

Runs tests/cluster in rounds of `CHAOS_ROUND` repetitions until each invariant was tried
`CHAOS_REPEAT` times. After each round it writes what was done and found to
benchmarks/results/chaos-DATE-COMMIT.md, with a picture of the figures. One that broke off is gone on
with, as long as the sources of the product are the same. The exit code is 1 if anything did not hold.
"""

from __future__ import annotations

import datetime
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.server import ROOT

from .support import report
from .support.build import other_build
from .support.node import OTHER_BUILD
from .support.rounds import Round, Rounds, figures, outcomes, product

RESULTS = ROOT / "benchmarks" / "results"
REPEAT, PER_ROUND = 50, 5
FIRST = {
    "CHAOS_ETCD_S": "60",
    "CHAOS_STORE_S": "60",
    "CHAOS_FREEZE_S": "12",
    "CHAOS_CUT_S": "12",
    "CHAOS_SESSIONS": "20000",
    "CHAOS_FLOOD": "5000",
}
"""The long forms, in the first round; the others are for chance."""
AGAIN = "CHAOS_AGAIN"
"""Set in the later rounds: only the tests that repeat something."""


def main() -> int:
    """Runs, writes, tells; 0 if everything held."""
    wanted = int(os.environ.get("CHAOS_REPEAT") or REPEAT)
    base, rounds = _begun(wanted)
    other = os.environ.get(OTHER_BUILD) or _other_build()
    rounds.given.setdefault(OTHER_BUILD, other)
    while rounds.repetitions < wanted:
        repetitions = min(
            int(os.environ.get("CHAOS_ROUND") or PER_ROUND), wanted - rounds.repetitions
        )
        done = _round(rounds, repetitions, other)
        if done is None:
            return 1
        rounds.rounds.append(done)
        rounds.write(base.with_suffix(".json"))
        report.write(rounds, base, _commit())
        print(
            f"chaos: {rounds.repetitions} of {wanted}, benchmarks/results/{base.name}.md",
            flush=True,
        )
    return 1 if rounds.failed else 0


def _begun(wanted: int) -> tuple[Path, Rounds]:
    """What to go on with: the newest of these sources that has not had enough; else a new one."""
    tried = product()
    for path in sorted(RESULTS.glob("chaos-*.json"), reverse=True):
        found = Rounds.read(path)
        if found.product == tried and found.repetitions < wanted:
            print(f"chaos: goes on with {path.name}, {found.repetitions} of {wanted}")
            return path.with_suffix(""), found
    given = {name: os.environ.get(name, value) for name, value in FIRST.items()}
    now = datetime.datetime.now(datetime.UTC)
    return RESULTS / f"chaos-{now:%Y-%m-%d-%H%M}-{_commit()}", Rounds(tried, given)


def _round(rounds: Rounds, repetitions: int, other: str) -> Round | None:
    """Runs every test. None: pytest was broken off, or could not begin."""
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
    asked = {AGAIN: "1"} if rounds.rounds else rounds.given
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="antiphon-chaos-") as name:
        tests, measured = Path(name) / "report.xml", Path(name) / "figures.jsonl"
        command = [
            sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "cluster"),
            f"--junitxml={tests}", "-o", "junit_logging=system-out", *sys.argv[1:],
        ]  # fmt: skip
        environment = {
            **os.environ,
            **asked,
            OTHER_BUILD: other,
            "CHAOS_REPEAT": str(repetitions),
            "CHAOS_SEED": str(seed),
            "CHAOS_FIGURES": str(measured),
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        if done.returncode not in (0, 1) or not tests.exists():
            return None
        minutes = (time.monotonic() - begun) / 60
        return Round(repetitions, seed, round(minutes, 1), outcomes(tests), figures(measured))


def _other_build() -> str:
    """The folder of the build that R2 runs beside this one; empty, and said, if it does not build."""
    try:
        return str(other_build())
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"chaos: no other build, R2 runs with this one under two numbers: {error}")
        return ""


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
