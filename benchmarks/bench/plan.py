# SPDX-License-Identifier: Apache-2.0
"""How much of everything a run does, and how long that takes on a quiet machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.progress import Task
from bench.scenarios import Scenario

# Seconds that are no window: logins of 200 clients and their farewells; a set of servers.
_AROUND_S = 0.9
_IDLE_AFTERWARDS_S = 1.5
_SET_S = 8.0
# Memory: the servers' start, the logins of 1,000 clients to one of them, what is fixed.
_MEMORY_START_S = 12.0
_MEMORY_LOGINS_S = 1.6
_MEMORY_FIXED_S = 8.0
# Messages a second, and what has to be done for accounts and the node's start.
_FILL_RATE = {"sqlite": 9_000, "cassandra": 2_500}
_FILLED_S = 6.0


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    limit_s: float
    """Further repetitions are left out beyond it; Progress says how."""
    repetitions: int
    few: int
    """Of what hardly differs from one to the next, or takes long to prepare."""
    default_repetitions: int
    """Of rivals as they come, whose figures count for no ratio."""
    seconds: float
    warmup: float
    patience_s: float
    """For one repetition, logins and the drain included."""
    connections: int
    """Idle ones."""
    settle: int
    """Seconds until their memory is read."""
    memory_repetitions: int
    messages: int
    """In the store that is searched."""

    def window(self, scenario: Scenario) -> float:
        """Seconds that are measured."""
        return self.seconds * scenario.stretch

    def times(self, scenario: Scenario) -> int:
        """Repetitions of this one."""
        if scenario.kind == "disk":
            return 1
        if scenario.kind == "memory":
            return self.memory_repetitions
        is_prepared = scenario.kind == "archive" and scenario.unit == "page"
        if is_prepared or scenario.with_unkept or scenario.kind in ("filled", "crossings"):
            return self.few
        return self.repetitions

    def tasks(
        self, scenarios: Sequence[Scenario], servers: tuple[int, int], *, is_cached: bool
    ) -> list[Task]:
        """Everything, with estimates; `servers`: tuned ones (ours included), and as they come."""
        return [
            Task(
                scenario.name, turn, self._seconds(scenario, turn, servers, is_cached=is_cached)
            )
            for scenario in scenarios
            for turn in range(self.times(scenario))
        ]  # fmt: skip

    def _seconds(
        self, scenario: Scenario, turn: int, servers: tuple[int, int], *, is_cached: bool
    ) -> float:
        tuned, default = servers
        both = tuned + (default if turn < self.default_repetitions else 0)
        one = self.warmup + self.window(scenario) + _AROUND_S
        match scenario.kind:
            case "memory":
                # All cells of a repetition go together: the waiting is shared by four of them.
                fixed = _MEMORY_START_S + _MEMORY_FIXED_S + self.settle
                return fixed / 4 + both * _MEMORY_LOGINS_S * self.connections / 1000
            case "disk":
                if is_cached and scenario.backend == "sqlite":
                    return _FILLED_S
                return self.messages / _FILL_RATE.get(scenario.backend, 1) + _FILLED_S
            case "filled" | "crossings":
                return one
            case "workers":
                return 2 * one
            case "archive":
                count = both if scenario.with_rivals else 1 + scenario.with_unkept
                return count * (one + _IDLE_AFTERWARDS_S) + _SET_S / 3
            case _:
                return both * one + (_SET_S / 10 if turn == 0 else 0)


def quick(repetitions: int | None, seconds: int | None) -> Plan:
    """Five minutes, the rivals only tuned."""
    return Plan(
        limit_s=280,
        repetitions=repetitions or 2,
        few=1,
        default_repetitions=0,
        seconds=seconds or 1,
        warmup=0.3,
        patience_s=90,
        connections=1000,
        settle=8,
        memory_repetitions=1,
        messages=100_000,
    )


def full(repetitions: int | None, seconds: int | None) -> Plan:
    """Half an hour and everything."""
    return Plan(
        limit_s=32 * 60,
        repetitions=repetitions or 3,
        few=repetitions or 3,
        default_repetitions=1,
        seconds=seconds or 5,
        warmup=1.5,
        patience_s=300,
        connections=2000,
        settle=25,
        memory_repetitions=min(repetitions or 2, 2),
        messages=1_000_000,
    )
