# SPDX-License-Identifier: Apache-2.0
"""What a disk holds after a power cut, made from the protocol of `witness.c`.

Up to its last sync a file is what was written. Of what came behind, a cut keeps any part: each write
survives whole, in some of its sectors, or not at all, whatever became of those before it.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NAME, WRITE, TRUNCATE, SYNC, REMOVE = 1, 2, 3, 4, 5
HEAD = struct.Struct("<QIIQQ")
SECTOR = 512
SYNC_S = 0.0003
"""What a sync of a good SSD takes."""
SOURCE = Path(__file__).with_name("witness.c")


def build(folder: Path) -> Path:
    """Compiles the library for LD_PRELOAD; raises `RuntimeError` with the compiler's words."""
    library = folder / "witness.so"
    command = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    done = subprocess.run(
        [*command, "-o", str(library), str(SOURCE), "-ldl", "-pthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return library


def environment(
    library: Path, folder: Path, protocol: Path, *, sync_s: float = SYNC_S
) -> dict[str, str]:
    """What a process needs so that all it does below `folder` is written down."""
    return {
        "LD_PRELOAD": str(library),
        "WITNESS_DIR": str(folder),
        "WITNESS_LOG": str(protocol),
        "WITNESS_SYNC_US": str(round(sync_s * 1e6)),
    }


@dataclass(frozen=True)
class Step:
    """One record; `at` is where its data stands in the protocol.

    A sync makes safe what its file's records below number `offset` did.
    """

    number: int
    time_s: float
    kind: int
    file: int
    offset: int
    length: int
    at: int


class Protocol:
    """All that was done to the files, by one process after another on the same folder."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Reads the protocol; a last record that a kill cut short is left out."""
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.names: list[str] = []
        self.steps: list[Step] = []
        for step in self._read():
            if step.kind == NAME:
                name = Path(os.fsdecode(self.data_of(step)))
                self.names.append(str(name.relative_to(folder)))
            else:
                self.steps.append(step)
        self._times = [step.time_s for step in self.steps]

    def _read(self) -> Iterator[Step]:
        size = len(self._data)
        at = number = 0
        while at + HEAD.size <= size:
            ns, kind, file, offset, length = HEAD.unpack_from(self._data, at)
            at += HEAD.size
            extent = length if kind in (NAME, WRITE) else 0
            if at + extent > size:
                return
            yield Step(number, ns / 1e9, kind, file, offset, length, at)
            at += extent
            number += 1

    def close(self) -> None:
        """Lets the file go."""
        self._data.close()

    @property
    def span_s(self) -> tuple[float, float]:
        """When the first and the last thing happened, of `time.monotonic`."""
        return self._times[0], self._times[-1]

    @property
    def syncs(self) -> int:
        """How often a file was synced."""
        return sum(step.kind == SYNC for step in self.steps)

    def moments(self, count: int, since_s: float, dice: random.Random) -> list[float]:
        """When to cut: half of them at any moment, half right behind a write."""
        begin, end = max(since_s, self.span_s[0]), self.span_s[1]
        writes = [step.time_s for step in self.steps if step.kind == WRITE and step.time_s >= begin]
        chosen = [dice.uniform(begin, end) for _ in range(count - count // 2)]
        return chosen + [dice.choice(writes) for _ in range(count // 2)]

    def data_of(self, step: Step) -> bytes:
        """What a write wrote."""
        return self._data[step.at : step.at + step.length]

    def cut(
        self, moment: float, before: Path, into: Path, dice: random.Random, *, lies_s: float = 0
    ) -> int:
        """Makes in `into` what the disk holds after a cut; the number of writes that were torn.

        `before`: the folder when the protocol began. `lies_s`: the disk (or a server that never
        syncs) has on it what is older than this, whatever it was asked for.
        """
        shutil.copytree(before, into, ignore=shutil.ignore_patterns("*.sock", "*.db-shm"))
        steps = self.steps[: bisect_right(self._times, moment)]
        safe: dict[int, int] = {}
        for step in steps:
            if lies_s > 0 and step.time_s <= moment - lies_s:
                safe[step.file] = step.number + 1
            elif lies_s == 0 and step.kind == SYNC:
                safe[step.file] = max(step.offset, safe.get(step.file, 0))
        torn = 0
        files: dict[int, BinaryIO] = {}
        for step in steps:
            if step.kind == SYNC:
                continue
            if step.kind == REMOVE:
                # The last user of the database removes the log, with all of it in the database.
                if step.file in files:
                    files.pop(step.file).close()
                (into / self.names[step.file]).unlink(missing_ok=True)
                continue
            if step.file not in files:
                files[step.file] = _opened(into / self.names[step.file])
            if step.number < safe.get(step.file, 0):
                self._apply(files[step.file], step, None)
            else:
                torn += 1
                self._apply(files[step.file], step, dice)
        for file in files.values():
            file.close()
        return torn

    def _apply(self, file: BinaryIO, step: Step, dice: random.Random | None) -> None:
        fate = 1.0 if dice is None else dice.random()
        if fate < 0.4:
            return
        if step.kind == TRUNCATE:
            file.truncate(step.length)
            return
        data = self.data_of(step)
        if dice is None or fate > 0.7:
            file.seek(step.offset)
            file.write(data)
            return
        for start in range(0, len(data), SECTOR):
            if dice.random() < 0.5:
                file.seek(step.offset + start)
                file.write(data[start : start + SECTOR])


def _opened(path: Path) -> BinaryIO:
    path.touch(exist_ok=True)
    return path.open("r+b", buffering=0)
