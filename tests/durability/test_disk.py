# SPDX-License-Identifier: Apache-2.0
"""The disk of the power cuts forgets what was not synced, and nothing else."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from durability import disk

WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1])
db.execute(f"PRAGMA synchronous={sys.argv[2]}")
db.execute("PRAGMA wal_autocheckpoint=20")
for number in range(300):
    with db:
        db.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 700))
    print(number, time.monotonic(), flush=True)
    time.sleep(0.001)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def written(folder: Path, synchronous: str) -> tuple[disk.Protocol, Path, list[float]]:
    """What a program did that committed 300 rows and was killed; when each commit was over."""
    database = folder / "data"
    database.mkdir()
    db = sqlite3.connect(database / "test.db")
    db.execute("PRAGMA journal_mode=wal")
    db.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT)")
    db.close()
    before = folder / "before"
    subprocess.run(["cp", "-r", str(database), str(before)], check=True)
    env = disk.environment(disk.build(folder), database, folder / "protocol")
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(database / "test.db"), synchronous],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    times = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(times) == 300, done.stderr
    return disk.Protocol(folder / "protocol", database), before, times


def rows_after(image: Path) -> list[int]:
    """The rows that are left; raises where the file is damaged."""
    db = sqlite3.connect(image / "test.db")
    try:
        (said,) = db.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(said)
        return [number for (number,) in db.execute("SELECT number FROM t ORDER BY number")]
    finally:
        db.close()


def test_what_was_committed_with_a_sync_survives_any_cut(tmp_path: Path) -> None:
    protocol, before, times = written(tmp_path, "FULL")
    dice = random.Random(1)
    torn = 0
    for cut, moment in enumerate(protocol.moments(60, times[0], dice)):
        image = tmp_path / f"cut{cut}"
        torn += protocol.cut(moment, before, image, dice)
        committed = sum(at <= moment for at in times)
        rows = rows_after(image)
        assert rows == list(range(len(rows)))
        assert committed <= len(rows) <= committed + 1
    assert torn > 0, "no cut came between a write and its sync"


@pytest.mark.parametrize("lies_s", [0.0, 0.05])
def test_what_was_not_synced_is_lost_by_some_cut(tmp_path: Path, lies_s: float) -> None:
    protocol, before, times = written(tmp_path, "OFF" if lies_s == 0 else "FULL")
    dice = random.Random(2)
    harmed = 0
    for cut in range(30):
        moment = dice.uniform(times[100], times[-1])
        image = tmp_path / f"cut{cut}"
        protocol.cut(moment, before, image, dice, lies_s=lies_s)
        try:
            harmed += len(rows_after(image)) < sum(at <= moment for at in times)
        except sqlite3.DatabaseError:
            harmed += 1
    assert harmed > 20
