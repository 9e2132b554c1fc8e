# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: what is looked at in a scenario, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from bench.scenarios import SCENARIOS, SEARCHES, Scenario
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
    ack_ms: Latency
    database_ms_per_1000: float | None
    p99_ms_by_kind: dict[str, float]
    bytes_each: float
    memory_kib: Memory


Verdict = Literal["aim", "must", "missed", "-"]
Sort = Literal["times cheaper", "at most", "at least", "no worse"]
"""times cheaper: than the best tuned rival. at most, at least: the figure itself. no worse:
than the best tuned rival for must, the figure itself for aim."""


@dataclass(frozen=True)
class Target:
    """What must be reached, and what is aimed at; None where nothing is asked."""

    sort: Sort
    must: float | None
    aim: float | None

    def ratio(self, ours: float | None, rival: float | None) -> float | None:
        """How often our figure goes into the rival's, or theirs into ours where more is better."""
        if not ours or not rival:
            return None
        return ours / rival if self.is_more_better else rival / ours

    @property
    def is_more_better(self) -> bool:
        """For rates."""
        return self.sort == "at least"

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
        if self.sort == "at least":
            return ours >= bound
        if self.sort != "times cheaper":
            return ours <= bound
        ratio = self.ratio(ours, rival)
        return None if ratio is None else ratio >= bound

    def words(self) -> tuple[str, str]:
        """Must and aim, for the table."""
        unit = "x" if self.sort == "times cheaper" else ""
        sign = {"times cheaper": "", "at least": "≥ "}.get(self.sort, "≤ ")
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
    """The figure is the first server's over the second's, or what it has more."""
    is_difference: bool = False

    def spread(self, found: Sequence[Result]) -> Spread | None:
        """Of one server's repetitions."""
        return Spread.of([value for one in found if (value := self.value(one)) is not None])

    def ours(self, spreads: Mapping[str, Spread | None]) -> float | None:
        """The figure that is judged."""
        if self.pair is None:
            ours = spreads.get("antiphon")
            return ours.middle if ours else None
        over, under = (spreads.get(name) for name in self.pair)
        if over is None or under is None:
            return None
        if self.is_difference:
            # Nobody is quicker for keeping more: what is below zero is noise.
            return max(0.0, over.middle - under.middle)
        return over.middle / under.middle if under.middle else None


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


def rate(result: Result) -> float | None:
    """Each second of the wall clock."""
    return result.get("rate_per_s")


def cpu_each(result: Result) -> float | None:
    """CPU ms of the server for one."""
    found = result.get("server_ms_per_1000")
    return None if found is None else found / 1000


def database(result: Result) -> float | None:
    """CPU ms of the database for 1,000."""
    return result.get("database_ms_per_1000")


def ack_p99(result: Result) -> float | None:
    """Milliseconds from the intended time of sending to the acknowledgement."""
    acks = result.get("ack_ms")
    return acks["p99"] if acks else None


def disk(result: Result) -> float | None:
    """Bytes for each message."""
    return result.get("bytes_each")


def p99_of(kind: str) -> Callable[[Result], float | None]:
    """Milliseconds, of one kind of search; nothing if it was never asked."""
    return lambda result: result.get("p99_ms_by_kind", {}).get(kind)


def crossings(result: Result) -> float | None:
    """In the whole window."""
    return result.get("crossings")


def _plural(word: str) -> str:
    return {"delivery": "deliveries", "search": "searches"}.get(word, f"{word}s")


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


def _bounded(
    name: str,
    title: str,
    look: tuple[str, Callable[[Result], float | None]],
    bounds: tuple[float | None, float | None],
) -> Row:
    """A figure that is judged by itself; `look`: its unit and where it stands."""
    unit, value = look
    return Row(_BY_NAME[name], title, unit, value, Target("at most", *bounds))


def _searches(name: str, title: str, must: float, aim: float) -> tuple[Row, ...]:
    """All kinds together, and each."""
    return (
        _bounded(name, f"{title}, p99 of all kinds", ("ms", p99), (must, aim)),
        *(_bounded(name, f"… {kind}", ("ms", p99_of(kind)), (must, aim)) for kind in SEARCHES),
    )


def _delay(name: str, title: str, must: float, aim: float) -> Row:
    """What keeping adds to the acknowledgement, against the same node without an archive."""
    scenario = _BY_NAME[name]
    pair = ("antiphon", "antiphon-unkept")
    return Row(
        scenario, title, "ms", ack_p99, Target("at most", must, aim), pair, is_difference=True
    )


_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
_EACH_1000 = "CPU ms per 1,000 messages"
_UNJUDGED_RATE = Target("at least", None, None)

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
    _cheaper("msg-archive", 3, 6),
    Row(_BY_NAME["msg-archive"], "… rate", "messages/s", rate, Target("at least", 8000, 12000)),
    _bounded("mam-page", "a page of 50 messages", ("CPU ms", cpu_each), (1.5, 0.5)),
    _bounded("mam-page", "… p99, 10 clients", ("ms", p99), (20, 8)),
    *_searches("search", "search", 50, 10),
    _bounded("inbox", "inbox of 500 conversations, p99", ("ms", p99), (50, 15)),
    _bounded("disk", "on disk, a message in two archives", ("bytes", disk), (600, 350)),
    _delay("ack", "p99 that the archive adds to an acknowledgement", 15, 7),
    _bounded("msg-archive-cassandra", "archives in Cassandra", (_EACH_1000, cpu), (100, 45)),
    _bounded("msg-archive-cassandra", "… Cassandra's own", (_EACH_1000, database), (500, 200)),
    Row(_BY_NAME["msg-archive-cassandra"], "… rate", "messages/s", rate, _UNJUDGED_RATE),
    _bounded("mam-page-cassandra", "a page of 50 in Cassandra", ("CPU ms", cpu_each), (1.5, 0.5)),
    _bounded("mam-page-cassandra", "… p99, 10 clients", ("ms", p99), (20, 8)),
    *_searches("search-cassandra", "search in Cassandra", 250, 80),
    _bounded("inbox-cassandra", "inbox of 500 in Cassandra, p99", ("ms", p99), (50, 15)),
    _bounded("disk-cassandra", "on Cassandra's disk", ("bytes", disk), (600, 360)),
    _delay("ack-cassandra", "p99 that Cassandra adds to an acknowledgement", 30, 15),
)
"""In the order of the table. The bounds are the project's own."""
