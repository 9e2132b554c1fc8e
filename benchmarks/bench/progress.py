# SPDX-License-Identifier: Apache-2.0
"""How far a run is, how long it still takes, and which repetitions there is time for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

# Estimates are trusted within these factors, whatever the first rows say.
LEAST_SCALE, MOST_SCALE = 0.5, 4.0
# Seconds of work after which the estimates are corrected by what it took.
ENOUGH_S = 20.0


@dataclass(frozen=True)
class Task:
    """One repetition of one row; the estimate in seconds."""

    name: str
    repetition: int
    seconds: float


@dataclass
class Progress:
    """The tasks of a run in its limit of time.

    The first repetition of every row is made whatever it takes. A further one is made if all rows
    behind it can still have as many: late rows do not pay for early ones.
    """

    tasks: Sequence[Task]
    limit_s: float
    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)
    _waiting: dict[tuple[str, int], Task] = field(init=False)
    _worked_s: float = 0.0
    _expected_s: float = 0.0
    _left_out: int = 0

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self._waiting = {(task.name, task.repetition): task for task in self.tasks}

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        return self.clock() - self._begun

    @property
    def left_out(self) -> int:
        """Repetitions that there was no time for."""
        return self._left_out

    def remaining_s(self) -> float:
        """Of all tasks that still wait."""
        return self._scale() * sum(task.seconds for task in self._waiting.values())

    def may(self, name: str, repetition: int) -> bool:
        """Whether to make this repetition; one that may not be made waits no longer."""
        if (name, repetition) not in self._waiting:
            return False
        wanted = [task for task in self._waiting.values() if task.repetition <= repetition]
        needed = self._scale() * sum(task.seconds for task in wanted)
        if repetition == 0 or self.elapsed_s + needed <= self.limit_s:
            return True
        self._left_out += 1
        del self._waiting[name, repetition]
        return False

    def done(self, tasks: Iterable[tuple[str, int]], seconds: float) -> None:
        """These were made, or failed, in this time."""
        for one in tasks:
            task = self._waiting.pop(one, None)
            if task is not None:
                self._expected_s += task.seconds
        self._worked_s += seconds

    def __str__(self) -> str:
        return f"{minutes(self.elapsed_s)} gone, about {minutes(self.remaining_s())} left"

    def _scale(self) -> float:
        if self._expected_s < ENOUGH_S:
            return 1.0
        return min(MOST_SCALE, max(LEAST_SCALE, self._worked_s / self._expected_s))


def minutes(seconds: float) -> str:
    """As on a watch."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
