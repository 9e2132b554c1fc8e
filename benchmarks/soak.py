# SPDX-License-Identifier: Apache-2.0
"""Holds idle and busy TLS sessions for long, then stops the node: `make soak`.

    SOAK_MINUTES=20 SOAK_IDLE=10000 SOAK_BUSY=200 SOAK_RATE=400 python benchmarks/soak.py

Idle sessions have stream management that can be resumed and say nothing; busy ones exchange
SOAK_RATE messages a second in pairs, in an open loop. The node's memory and the latencies are read
every five seconds. Exit code 0 if memory stayed within 2 % of its median after the settling time,
nothing was lost, doubled or out of order, every idle session answered a roll call at the end, and
on SIGTERM every client was told `system-shutdown`, got the end of its stream and saw the connection
close. Results: benchmarks/results/soak-*.json, .md and .png.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, TypedDict

from bench import machine
from bench.accounts import Accounts
from bench.ours import AntiphonTwo
from bench.server import Place, Ports, ServerError
from run import certificate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "antiphon-load"
FLAT = 0.02
SETTLE_S = 120.0
STOP_S = 90.0
SPARE_DESCRIPTORS = 200


class Interval(TypedDict):
    """One line of the generator: KiB, seconds, milliseconds (benchmarks/load, soak.rs)."""

    at_s: float
    seconds: float
    rss_kib: int
    pss_kib: int
    private_kib: int
    server_cpu_s: float
    generator_cpu_s: float
    machine_cpu_s: float
    sent: int
    received: int
    p50_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    dropped: int


class Latency(TypedDict):
    """Milliseconds, of the whole run."""

    count: int
    p50: float
    p99: float
    p99_9: float
    max: float


class Total(TypedDict):
    """The generator's last line."""

    seconds: float
    sent: int
    count: int
    lost: int
    errors: int
    disordered: int
    dropped: int
    called: int
    answered: int
    told: int
    ended: int
    closed: int
    server_ms_per_1000: float
    latency_ms: Latency
    reasons: list[str]


@dataclass(frozen=True)
class Size:
    """How long and how many; of the environment."""

    minutes: float
    idle: int
    busy: int
    rate: int

    @classmethod
    def of_environment(cls) -> Size:
        """Exits with one line for a value that is no number."""

        def number(name: str, default: str) -> float:
            try:
                return float(os.environ.get(name) or default)
            except ValueError:
                sys.exit(f"soak: {name} is a number")

        return cls(
            number("SOAK_MINUTES", "20"),
            int(number("SOAK_IDLE", "10000")),
            int(number("SOAK_BUSY", "200")),
            int(number("SOAK_RATE", "400")),
        )

    @property
    def connections(self) -> int:
        """All of them."""
        return self.idle + self.busy

    @property
    def settle_s(self) -> float:
        """Readings until then, after the last login, do not count: two minutes, or a quarter."""
        return min(SETTLE_S, self.minutes * 15)


@dataclass
class Soak:
    """What was seen."""

    size: Size
    up_s: float
    intervals: list[Interval]
    total: Total
    exit_code: int | None

    @property
    def settled(self) -> list[Interval]:
        """The readings that count."""
        return [i for i in self.intervals if i["at_s"] >= self.up_s + self.size.settle_s]

    def memory_mib(self) -> tuple[float, float, float]:
        """Median, least and most RSS, of the settled readings."""
        values = [i["rss_kib"] / 1024 for i in self.settled]
        return median(values), min(values), max(values)

    def unevenness(self) -> float:
        """The largest distance of a settled reading from their median, as a share of it."""
        middle, least, most = self.memory_mib()
        return max(most - middle, middle - least) / middle

    def growth(self) -> float:
        """The last fifth of the settled readings against the first, as a share."""
        values = [i["rss_kib"] for i in self.settled]
        fifth = max(1, len(values) // 5)
        return median(values[-fifth:]) / median(values[:fifth]) - 1

    def complaints(self) -> list[str]:
        """What is not as it must be."""
        total, everybody = self.total, self.size.connections
        wrong: list[str] = []
        if self.unevenness() > FLAT:
            wrong.append(f"memory is off its median by {self.unevenness():.1%}")
        for name, count in (
            ("lost", total["lost"]),
            ("returned", total["errors"]),
            ("doubled or out of order", total["disordered"]),
            ("dropped", total["dropped"]),
        ):
            if count:
                wrong.append(f"{name}: {count}")
        if total["answered"] != self.size.idle:
            wrong.append(f"{self.size.idle - total['answered']} idle sessions did not answer")
        for name, count in (
            ("told", total["told"]),
            ("ended", total["ended"]),
            ("closed", total["closed"]),
        ):
            if count != everybody:
                wrong.append(f"{name} at the end: {count} of {everybody}")
        if self.exit_code != 0:
            wrong.append(f"the node ended with {self.exit_code}")
        return wrong + [f"reason: {reason}" for reason in total["reasons"]]


def say(text: str) -> None:
    """Progress, at once even into a pipe."""
    print(f"soak: {text}", flush=True)


def allow_descriptors(size: Size) -> None:
    """Raises the limit for this process and those it starts, or exits with one line."""
    needed = size.connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"soak: {needed} open files are needed, {hard} are allowed (ulimit -Hn)")
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def load_command(size: Size, server: Node) -> list[str]:
    """The generator's command line."""
    return [
        str(LOAD), "soak", "--address", server.direct, "--tls", "direct",
        "--connections", str(size.connections), "--users", str(size.connections),
        "--busy", str(size.busy), "--rate", str(size.rate), "--sm", "5",
        "--seconds", str(size.minutes * 60), "--pid", str(server.pid),
    ]  # fmt: skip


def watch(size: Size, server: Node) -> Soak:
    """Runs the generator, and tells the node to stop when it says so. Raises ServerError."""
    with subprocess.Popen(
        load_command(size, server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        assert load.stdout is not None
        assert load.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=_collect, args=(load.stderr, errors), daemon=True)
        reader.start()
        try:
            up_s, intervals, total = _read(load.stdout, server, size)
        finally:
            if load.poll() is None and sys.exc_info()[0] is not None:
                load.kill()
        load.wait(STOP_S)
        reader.join(5)
    if total is None:
        raise ServerError("the generator gave up: " + " ".join(errors).strip())
    return Soak(size, up_s, intervals, total, server.ended(STOP_S))


def _collect(stream: IO[str], into: list[str]) -> None:
    into.extend(stream)


def _read(lines: IO[str], server: Node, size: Size) -> tuple[float, list[Interval], Total | None]:
    up_s, intervals, total = 0.0, list[Interval](), None
    for text in lines:
        line = json.loads(text)
        match line.get("event"):
            case "up":
                up_s = line["seconds"]
                say(f"{line['connections']} sessions after {up_s:.0f} s")
            case "interval":
                intervals.append(line)
                if len(intervals) % 12 == 0:
                    say(
                        f"{(line['at_s'] - up_s) / 60:4.1f} of {size.minutes:g} min: "
                        f"{line['rss_kib'] / 1024:.1f} MiB, p50 {line['p50_ms']:.2f} ms, "
                        f"p99 {line['p99_ms']:.2f} ms, {line['received']} of {line['sent']}"
                    )
            case "quiet":
                say("all delivered; SIGTERM")
                os.kill(server.pid, signal.SIGTERM)
            case _:
                total = line
    return up_s, intervals, total


class Node(AntiphonTwo):
    """Antiphon with two workers, whose end can be waited for."""

    def ended(self, patience_s: float) -> int | None:
        """The exit code; None if it still runs after this time."""
        if self._process is None:
            return None
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None


def report(soak: Soak, folder: Path, started: datetime.datetime) -> str:
    """Writes the files; returns the verdict."""
    commit = machine.commit()
    name = f"soak-{started:%Y-%m-%d-%H%M}-{commit}"
    complaints = soak.complaints()
    verdict = "passed" if not complaints else "FAILED: " + "; ".join(complaints)
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "date": f"{started:%Y-%m-%d %H:%M} UTC",
        "commit": commit,
        "machine": machine.describe(),
        "size": vars(soak.size),
        "verdict": verdict,
        "total": soak.total,
        "exit_code": soak.exit_code,
        "intervals": soak.intervals,
    }
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    has_plot = plot(soak, folder / f"{name}.png")
    (folder / f"{name}.md").write_text(markdown(soak, document, name if has_plot else None))
    return verdict


def markdown(soak: Soak, document: Mapping[str, object], picture: str | None) -> str:
    """The results for people."""
    size, total = soak.size, soak.total
    latency = total["latency_ms"]
    middle, least, most = soak.memory_mib()
    cpu = [i["server_cpu_s"] / i["seconds"] for i in soak.settled]
    others = [
        (i["machine_cpu_s"] - i["server_cpu_s"] - i["generator_cpu_s"]) / i["seconds"]
        for i in soak.settled
    ]
    rows = [
        ("idle and busy sessions, TLS 1.3", f"{size.idle:,} and {size.busy:,}"),
        ("minutes", f"{size.minutes:g}, of which {size.settle_s / 60:g} to settle"),
        ("messages sent; lost, returned, out of order", f"{total['sent']:,}; {total['lost']}, "
         f"{total['errors']}, {total['disordered']}"),
        ("RSS, MiB: median, least, most", f"{middle:.1f}, {least:.1f}, {most:.1f}"),
        ("farthest from the median; last fifth against first",
         f"{soak.unevenness():.2%}; {soak.growth():+.2%}"),
        ("latency, ms: p50, p99, p99.9, most", f"{latency['p50']:.2f}, {latency['p99']:.2f}, "
         f"{latency['p99_9']:.2f}, {latency['max']:.1f}"),
        ("the node's processors in use, median", f"{median(cpu):.3f}"),
        ("everybody else's, median", f"{median(others):.2f}"),
        ("idle sessions that answered at the end", f"{total['answered']:,} of {size.idle:,}"),
        ("SIGTERM: told, stream ended, connection closed",
         f"{total['told']:,}, {total['ended']:,}, {total['closed']:,} of {size.connections:,}"),
    ]  # fmt: skip
    lines = [
        "# Soak",
        "",
        f"{document['date']}, commit {document['commit']}: {document['verdict']}.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {what} | {value} |" for what, value in rows),
        "",
    ]
    if picture:
        lines += [f"![memory and latency over time]({picture}.png)", ""]
    return "\n".join(lines)


def plot(soak: Soak, path: Path) -> bool:
    """Memory above, latency below, over minutes. False where matplotlib is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  optional: the figures do not need it

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError:
        return False
    minutes = [(i["at_s"] - soak.up_s) / 60 for i in soak.intervals]
    middle, _, _ = soak.memory_mib()
    figure, (memory, latency) = plt.subplots(2, 1, figsize=(9, 6.4), sharex=True)
    settle = soak.size.settle_s / 60
    memory.axhspan(middle * (1 - FLAT), middle * (1 + FLAT), color="#dfeaf1", label="median ± 2 %")
    memory.plot(
        minutes, [i["rss_kib"] / 1024 for i in soak.intervals], color="#2a6f97", label="RSS"
    )
    memory.plot(
        minutes, [i["pss_kib"] / 1024 for i in soak.intervals], color="#9a9a9a", lw=1, label="PSS"
    )
    memory.set_ylim(middle * 0.88, middle * 1.12)
    memory.set_ylabel("memory of the node, MiB")
    memory.legend(loc="lower right", frameon=False, ncols=3)
    for key, label, colour in (
        ("max_ms", "most", "#d0d0d0"),
        ("p99_9_ms", "p99.9", "#c9a227"),
        ("p99_ms", "p99", "#b23a48"),
        ("p50_ms", "p50", "#2a6f97"),
    ):
        values = [float(i[key]) for i in soak.intervals]  # type: ignore[literal-required]
        latency.plot(minutes, values, color=colour, lw=1.2, label=label)
    latency.set_yscale("log")
    latency.set_ylabel("latency in 5 s, ms")
    latency.set_xlabel("minutes after the last login")
    latency.set_xlim(left=0)
    latency.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=4)
    for axis in (memory, latency):
        axis.axvline(settle, color="black", lw=0.8, ls=":")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{soak.size.idle:,} idle and {soak.size.busy:,} busy TLS sessions, "
        f"{soak.size.rate:,} messages/s (left of the dots: settling)",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def main() -> int:
    """0: passed; 1: failed, and why is in the last line."""
    size = Size.of_environment()
    allow_descriptors(size)
    command = ["cargo", "build", "--quiet", "--release", "-p", "antiphon-load"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit("soak: the load generator does not build")
    started = datetime.datetime.now(datetime.UTC)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        cert, key = certificate(folder)
        node = Node(Place(folder / "node", cert, key, Ports(25_222).take(), None))
        try:
            say(f"making {size.connections} accounts")
            node.start(Accounts(size.connections))
            soak = watch(size, node)
        except ServerError as err:
            sys.exit(f"soak: {err}")
        finally:
            node.stop()
    folder = Path(os.environ.get("SOAK_RESULTS") or RESULTS)
    verdict = report(soak, folder, started)
    middle, _, _ = soak.memory_mib()
    say(
        f"{verdict} ({middle:.1f} MiB, off by {soak.unevenness():.2%} at most, "
        f"{soak.total['sent']:,} messages, p99 {soak.total['latency_ms']['p99']:.2f} ms)"
    )
    return 0 if verdict == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
