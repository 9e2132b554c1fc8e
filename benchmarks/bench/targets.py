# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: what is looked at in a scenario, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from bench.scenarios import SCENARIOS, Scenario
from bench.spread import Spread


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
    server_ms_per_1000: float | None
    generator_us_each: float | None
    other_cpu_s: float
    errors: int
    lost: int
    crossings: int
    contacts: int
    latency_ms: Latency
    memory_kib: Memory


Verdict = Literal["aim", "must", "missed", "-"]
Sort = Literal["times cheaper", "at most", "no worse"]
"""times cheaper: than the best tuned rival. at most: the figure itself. no worse: than the best
tuned rival for must, the figure itself for aim."""


@dataclass(frozen=True)
class Target:
    """What must be reached, and what is aimed at; None where nothing is asked."""

    sort: Sort
    must: float | None
    aim: float | None

    def ratio(self, ours: float | None, rival: float | None) -> float | None:
        """How often our figure goes into the rival's."""
        del self
        return rival / ours if ours and rival is not None else None

    def verdict(self, ours: float | None, rival: float | None) -> Verdict:
        """Of medians; `-` where a figure or every bound is missing."""
        must = rival if self.sort == "no worse" else self.must
        must_is_met = self._is_met(must, ours, rival)
        aim_is_met = self._is_met(self.aim, ours, rival)
        if must_is_met is None and aim_is_met is None:
            return "-"
        if must_is_met is False:
            return "missed"
        return "aim" if aim_is_met else "must"

    def _is_met(self, bound: float | None, ours: float | None, rival: float | None) -> bool | None:
        """None if that cannot be said."""
        if bound is None or ours is None:
            return None
        if self.sort != "times cheaper":
            return ours <= bound
        ratio = self.ratio(ours, rival)
        return None if ratio is None else ratio >= bound

    def words(self) -> tuple[str, str]:
        """Must and aim, for the table."""
        sign, unit = ("", "x") if self.sort == "times cheaper" else ("≤ ", "")
        must = "-" if self.must is None else f"{sign}{self.must:g}{unit}"
        aim = "-" if self.aim is None else f"{sign}{self.aim:g}{unit}"
        return ("the rival's" if self.sort == "no worse" else must), aim


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: Scenario
    title: str
    unit: str
    value: Callable[[Result], float | None]
    target: Target
    pair: tuple[str, str] | None = None
    """The figure is the first server's over the second's."""

    def spread(self, found: Sequence[Result]) -> Spread | None:
        """Of one server's repetitions."""
        return Spread.of([value for one in found if (value := self.value(one)) is not None])

    def ours(self, spreads: Mapping[str, Spread | None]) -> float | None:
        """The figure that is judged."""
        if self.pair is None:
            ours = spreads.get("antiphon")
            return ours.middle if ours else None
        over, under = (spreads.get(name) for name in self.pair)
        return over.middle / under.middle if over and under and under.middle else None


def cpu(result: Result) -> float | None:
    """CPU ms of the server for 1,000."""
    return result.get("server_ms_per_1000")


def each(result: Result) -> float | None:
    """KiB of RSS for each connection."""
    memory = result.get("memory_kib")
    return memory["rss_each"] if memory else None


def process(result: Result) -> float | None:
    """MB of the process before its connections."""
    memory = result.get("memory_kib")
    return memory["rss_before"] * 1024 / 1e6 if memory else None


def p50(result: Result) -> float | None:
    """Milliseconds."""
    latency = result.get("latency_ms")
    return latency["p50"] if latency else None


def p99(result: Result) -> float | None:
    """Milliseconds."""
    latency = result.get("latency_ms")
    return latency["p99"] if latency else None


def crossings(result: Result) -> float | None:
    """In the whole window."""
    return result.get("crossings")


def _plural(word: str) -> str:
    return "deliveries" if word == "delivery" else f"{word}s"


def _cheaper(name: str, must: float, aim: float) -> Row:
    scenario = _BY_NAME[name]
    unit = f"CPU ms per 1,000 {_plural(scenario.unit)}"
    return Row(scenario, scenario.title, unit, cpu, Target("times cheaper", must, aim))


def _idle(name: str, must: float, aim: float) -> Row:
    scenario = _BY_NAME[name]
    return Row(scenario, scenario.title, "KiB each", each, Target("at most", must, aim))


def _latency(
    title: str, value: Callable[[Result], float | None], sort: Sort, aim: float | None
) -> Row:
    return Row(_BY_NAME["msg-plain-1000"], f"… {title}", "ms", value, Target(sort, None, aim))


def _workers(name: str) -> Row:
    scenario = _BY_NAME[name]
    target = Target("at most", 1.25, 1.1)
    pair = ("antiphon-two", "antiphon-one")
    return Row(scenario, scenario.title, "CPU ms per 1,000 messages", cpu, target, pair)


_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

ROWS = (
    _cheaper("msg-plain", 4, 9),
    _cheaper("msg-tls", 3.5, 7),
    _cheaper("msg-sm", 6, 12),
    _cheaper("msg-carbons", 5, 10),
    _cheaper("msg-plain-1000", 2, 2.8),
    _latency("p50", p50, "at most", 0.27),
    _latency("p99", p99, "no worse", 0.45),
    _cheaper("login-plain", 5, 12),
    _cheaper("login-tls", 3, 5),
    _cheaper("login-password", 30, 60),
    _cheaper("resume", 4, 8),
    _cheaper("presence", 4, 8),
    _idle("idle-plain", 6, 2.5),
    _idle("idle-tls", 12, 6.5),
    _idle("idle-tls-sm", 14, 8),
    _idle("idle-roster", 24, 12),
    Row(_BY_NAME["idle-plain"], "the whole idle process", "MB", process, Target("at most", 80, 60)),
    _workers("workers-saturated"),
    _workers("workers-rate"),
    Row(
        _BY_NAME["crossings"],
        "crossings into Python, plain messages",
        "in all",
        crossings,
        Target("at most", 0, 0),
    ),
)
"""In the order of the table. The bounds are the project's own."""
