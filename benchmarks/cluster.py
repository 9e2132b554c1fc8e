# SPDX-License-Identifier: Apache-2.0
"""What a cluster costs: one node against three on this machine, in the same run.

    python benchmarks/cluster.py [ROW]...     all rows, unless named
    REPETITIONS=3 SECONDS_EACH=5 QUICK=1

One node on SQLite, then three with etcd of three members and one Cassandra, all on both processors,
the generator among them; no archives, so that the difference is the cluster's. CPU is that of all
nodes. After each row all is written to `results/`; the exit code is 1 if a must was missed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypedDict

import cluster_probes as probes
from bench import machine, plots
from bench.campaign import say
from bench.results import base_name, replace
from bench.server import ServerError
from bench.spread import Spread, short
from bench.targets import Result
from cluster_stage import Alone, Stand, Three, accounts
from run import LOAD, allow_descriptors, build

IDLE = 10_000
DRAINED = 5_000


class Found(TypedDict):
    """One row as it stands in the results file."""

    row: str
    title: str
    unit: str
    one: list[float]
    three: list[float]
    figure: float | None
    must: float
    aim: float
    verdict: str


@dataclass(frozen=True)
class Row:
    """What is compared, and what it has to reach."""

    name: str
    title: str
    unit: str
    must: float
    aim: float
    sort: str
    """ratio: three over one. difference: three less one. three: the figure itself."""

    def figure(self, one: Sequence[float], three: Sequence[float]) -> float | None:
        """Of medians; None where one of them is missing."""
        if not three or (self.sort != "three" and not one):
            return None
        if self.sort == "three":
            return median(three)
        if self.sort == "ratio":
            return median(three) / median(one)
        return median(three) - median(one)


ROWS = (
    Row("msg", "a message between users on two nodes, CPU", "ms/1,000", 3.5, 2.2, "ratio"),
    Row("p50", "added latency at 1,000/s, p50", "ms", 1, 0.5, "difference"),
    Row("p99", "added latency at 1,000/s, p99", "ms", 5, 2, "difference"),
    Row("login", "login into a cluster, CPU", "ms/1,000", 1.6, 1.2, "ratio"),
    Row("login-tls", "the same with a TLS 1.3 handshake", "ms/1,000", 1.6, 1.2, "ratio"),
    Row("idle", "memory for each idle session, whole cluster", "KiB", 1, 0.4, "difference"),
    Row("etcd-idle", "etcd's writes, 10,000 idle sessions", "1/s", 2, 1, "three"),
    Row("etcd-busy", "etcd's writes, the same busy", "1/s", 2, 1, "three"),
    Row("kill", "kill -9: until its users' homes answer, p99", "s", 3, 1, "three"),
    Row("drain", "drain of a node with 5,000 sessions", "s", 30, 10, "three"),
    Row("drain-lost", "messages that the drain lost", "", 0, 0, "three"),
)


def number(name: str, otherwise: int) -> int:
    """A variable of the environment. Exits with one line if it is no positive number."""
    text = os.environ.get(name, "") or str(otherwise)
    if not text.isdecimal() or int(text) < 1:
        sys.exit(f"cluster: {name}={text}: a positive number")
    return int(text)


@dataclass
class Run:
    """All figures of a run, by row and stand."""

    base: Path
    repetitions: int
    seconds: int
    is_quick: bool
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    asides: list[str] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    """Messages a second at saturation, by stand."""

    def note(self, row: str, stand: Stand, *values: float) -> None:
        """More figures of a row."""
        self.figures.setdefault((row, stand.name), []).extend(values)
        say(f"  {row:12} {stand.label:12} {', '.join(short(value) for value in values)}")

    def tried(self, what: str, action: Callable[[], None]) -> None:
        """Does it, or writes down why not."""
        try:
            action()
        except (ServerError, AssertionError) as error:
            self.failures.append(f"{what}: {str(error).splitlines()[0]}")
            say(f"  {self.failures[-1]}")
        self.save()

    def rows(self) -> list[Found]:
        """Those that have figures, with their verdicts."""
        found: list[Found] = []
        for row in ROWS:
            one = self.figures.get((row.name, "one"), [])
            three = self.figures.get((row.name, "three"), [])
            figure = row.figure(one, three)
            if not one and not three:
                continue
            verdict = "-"
            if figure is not None:
                verdict = "missed"
                if figure <= row.must:
                    verdict = "aim" if figure <= row.aim else "must"
            found.append(
                {
                    "row": row.name, "title": row.title, "unit": row.unit, "one": one,
                    "three": three, "figure": figure, "must": row.must, "aim": row.aim,
                    "verdict": verdict,
                }
            )  # fmt: skip
        return found

    def save(self) -> None:
        """Writes figures and table."""
        document = {
            "commit": machine.commit(),
            "command": "benchmarks/cluster.py",
            "machine": machine.describe(),
            "plan": {"repetitions": self.repetitions, "seconds": self.seconds},
            "rows": self.rows(),
            "failures": self.failures,
            "asides": self.asides,
            "rates": self.rates,
        }
        replace(self._named(".json"), json.dumps(document, indent=1) + "\n")
        replace(self._named(".md"), self.text())

    def _named(self, ending: str) -> Path:
        return self.base.with_name(self.base.name + ending)

    def text(self) -> str:
        """Markdown."""
        head = ["", "unit", "one node", "three nodes", "figure", "must", "aim", ""]
        lines = [
            f"# {self.base.name}: one node against three",
            "",
            f"`benchmarks/cluster.py`; medians (least..most) of {self.repetitions} repetitions of "
            f"{self.seconds} s. Everything shares the processors: nodes, etcd, Cassandra, load.",
            "",
            *(f"- {key}: {value}" for key, value in machine.describe().items()),
            "",
            f"| {' | '.join(head)} |",
            "|" + " --- |" * len(head),
        ]
        for row in self.rows():
            verdict = f"**{row['verdict']}**" if row["verdict"] == "missed" else row["verdict"]
            cells = [
                row["title"], row["unit"], _spread(row["one"]), _spread(row["three"]),
                "-" if row["figure"] is None else short(row["figure"]), short(row["must"]),
                short(row["aim"]), verdict,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {text}" for text in self.asides)]
        lines += [f"- left out: {text}" for text in self.failures]
        picture = self._named(".png")
        if picture.exists():
            lines += ["", f"![{picture.name}]({picture.name})"]
        return "\n".join(lines) + "\n"

    def draw(self) -> None:
        """How far each row is from what it must reach."""
        shown = [row for row in self.rows() if row["figure"] is not None and row["must"]]
        if not shown or not plots.is_possible():
            return
        from matplotlib import pyplot as plt  # noqa: PLC0415  see is_possible

        figure, axis = plt.subplots(figsize=(8.5, 1.2 + 0.4 * len(shown)))
        for place, row in enumerate(reversed(shown)):
            share = (row["figure"] or 0.0) / row["must"]
            colour = plots.MISSED if share > 1 else plots.OURS
            axis.barh(place, share, height=0.6, color=colour)
            axis.text(
                share + 0.02, place, f"{short(row['figure'] or 0.0)} {row['unit']}", va="center"
            )
            aim = row["aim"] / row["must"]
            axis.plot([aim, aim], [place - 0.4, place + 0.4], ":", color="black")
        axis.plot([1, 1], [-0.5, len(shown) - 0.5], "-", color="black", linewidth=1.6)
        axis.set_yticks(range(len(shown)), [row["title"] for row in reversed(shown)], fontsize=8)
        axis.set_xlabel("share of what it must stay below (line); dots: aim")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(self._named(".png"), dpi=110)
        plt.close(figure)


def _spread(values: Sequence[float]) -> str:
    return str(Spread.of(values) or "-")


def loads(run: Run, stand: Stand, wanted: set[str]) -> None:
    """What both stands are measured by, once."""
    each = ["--seconds", str(run.seconds), "--warmup", "2"]

    def messages() -> None:
        result = stand.load("msg", "--users", "200", *each, load=LOAD)
        run.note("msg", stand, _cost(result))
        run.rates.setdefault(stand.name, []).append(result["rate_per_s"])
        run.asides.append(
            f"{stand.label}: {result['rate_per_s']:,.0f} messages/s at saturation, "
            f"{result.get('lost', 0)} lost"
        )

    def latency() -> None:
        result = stand.load("msg", "--users", "200", "--rate", "1000", *each, load=LOAD)
        run.note("p50", stand, result["latency_ms"]["p50"])
        run.note("p99", stand, result["latency_ms"]["p99"])

    # 64 at a time for each of three nodes, as `run.py` has for one: a node that idles between two
    # logins pays for falling asleep with each.
    storm = ["--users", "300", "--window", "192", *each]

    def logins() -> None:
        run.note("login", stand, _cost(stand.load("login", *storm, load=LOAD)))

    def logins_tls() -> None:
        result = stand.load("login", *storm, "--tls", "direct", load=LOAD, at=stand.direct)
        run.note("login-tls", stand, _cost(result))

    if "msg" in wanted:
        run.tried("msg", messages)
    if wanted & {"p50", "p99"}:
        run.tried("latency", latency)
    if "login" in wanted:
        run.tried("login", logins)
    if "login-tls" in wanted:
        run.tried("login-tls", logins_tls)


def in_turn(run: Run, wanted: set[str]) -> None:
    """Both stands at once, loaded in turn: what else the machine does meets both."""
    with Alone() as alone, Three() as three:
        for _ in range(run.repetitions):
            for row in ("msg", "p50", "login", "login-tls"):
                for stand in (alone, three):
                    loads(run, stand, _asked(row, wanted))


def _asked(row: str, wanted: set[str]) -> set[str]:
    """Those of a row's figures that are wanted."""
    return wanted & ({"p50", "p99"} if row == "p50" else {row})


def idle(run: Run, stand: Stand) -> None:
    """Memory of idle sessions; a stand of its own, since it grows."""

    def memory() -> None:
        # What a process takes once, for threads and links, is not a session's.
        warm = ["login", "--users", "200", "--window", "32", "--seconds", "3", "--warmup", "0"]
        stand.load(*warm, load=LOAD)
        words = ["idle", "--connections", str(_idle(run)), "--settle", "10"]
        result = stand.load(*words, load=LOAD)
        run.note("idle", stand, result["memory_kib"]["pss_each"])

    run.tried("idle", memory)


def _idle(run: Run) -> int:
    return IDLE // 5 if run.is_quick else IDLE


def only_three(run: Run, stand: Three, wanted: set[str]) -> None:
    """What one node has not."""
    rounds = 1 if run.is_quick else 3

    def quiet() -> None:
        words = ["idle", "--connections", str(_idle(run)), "--settle", "40"]
        run.note("etcd-idle", stand, probes.writes(stand, words, LOAD, 25.0))

    def busy() -> None:
        words = ["msg", "--connections", str(_idle(run)), "--rate", "1000", "--seconds", "30"]
        run.note("etcd-busy", stand, probes.writes(stand, words, LOAD, 25.0))

    def kill() -> None:
        gaps = probes.kills(stand, accounts(), rounds)
        run.note("kill", stand, gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)])
        run.asides.append(
            f"kill -9: {len(gaps)} homes in {rounds} kills, median {median(gaps):.2f} s, "
            f"most {gaps[-1]:.2f} s"
        )

    def drain() -> None:
        found = probes.drain(stand, LOAD, DRAINED // 5 if run.is_quick else DRAINED)
        run.note("drain", stand, found.took_s)
        run.note("drain-lost", stand, found.lost)
        run.asides.append(
            f"drain: {found.resumed} writing sessions resumed, {found.not_resumed} did not; "
            f"{probes.SITTERS} idle ones, written to meanwhile, all did"
        )

    actions = {"etcd-idle": quiet, "etcd-busy": busy, "kill": kill, "drain": drain}
    for name, action in actions.items():
        if name in wanted:
            run.tried(name, action)


def _cost(result: Result) -> float:
    cost = result.get("server_ms_per_1000")
    if not cost:
        raise ServerError("nothing was delivered")
    return cost


def measure(run: Run, wanted: set[str]) -> None:
    """Every row that was asked for."""
    if wanted & {"msg", "p50", "p99", "login", "login-tls"}:
        say("cluster: one node and three, in turn")
        in_turn(run, wanted)
    if "idle" in wanted:
        say("cluster: idle sessions")
        for _ in range(run.repetitions):
            for kind in (Alone, Three):
                with kind() as stand:
                    idle(run, stand)
    if wanted & {"etcd-idle", "etcd-busy", "kill", "drain"}:
        with Three() as three:
            only_three(run, three, wanted)


def main() -> int:
    """0 if every row that was measured holds what it must."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    known = [row.name for row in ROWS]
    wanted = set(sys.argv[1:] or known)
    if unknown := wanted - set(known):
        sys.exit(f"cluster: no row {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    is_quick = os.environ.get("QUICK", "") not in ("", "0")
    allow_descriptors()
    build()
    base = base_name(machine.commit(), "-cluster")
    run = Run(
        base, number("REPETITIONS", 1 if is_quick else 3), number("SECONDS_EACH", 5), is_quick
    )
    try:
        measure(run, wanted)
    except ServerError as error:
        run.failures.append(str(error).splitlines()[0])
        say(f"cluster: {error}")
    finally:
        run.draw()
        run.save()
        say(f"cluster: benchmarks/results/{run.base.name}.md\n\n{run.text()}")
    return 1 if run.failures or any(row["verdict"] == "missed" for row in run.rows()) else 0


if __name__ == "__main__":
    sys.exit(main())
