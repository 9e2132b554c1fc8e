# SPDX-License-Identifier: Apache-2.0
"""How live sessions fare while 5,000 clients log in, with admission control and without.

    python benchmarks/storm.py [SERVER]...    antiphon antiphon-off prosody (all, unless named)
    CLIENTS=5000 RATE=1000 SECONDS_EACH=8 REPETITIONS=3

Live sessions exchange messages at a fixed rate, sent at times fixed before; beside them a second
generator keeps so many logins by direct TLS and SCRAM under way, each client coming back when it is
through. The server has processor 0, both generators share processor 1, the one that measures before
the other. Prints a line for each repetition, after each of which all is written to `results/`; the
exit code is 1 if the p99 of ours beside the storm, the median of all repetitions, is above 50 ms.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import machine
from bench.accounts import Accounts
from bench.campaign import say
from bench.ours import Antiphon
from bench.progress import minutes
from bench.results import base_name, replace
from bench.rivals import Prosody
from bench.server import Server, ServerError
from bench.stage import Stage
from run import LOAD, allow_descriptors, build, staged

LIVE_USERS = 20
USERS = 200
LOGIN_S = 2
"""Until the live sessions are there."""
BEFORE_S = 3
"""The storm is under way so long before the measured window begins."""
PATIENCE_S = 180
MUST_MS = 50
"""For the p99 of live sessions beside a storm."""
AROUND_S = 6
"""A server's start and end, and the end of a storm."""
TIMES = ("p50", "p99", "p99_9", "max")


class Unlimited(Antiphon):
    """Ours without admission control."""

    name = "antiphon-off"
    label = "Antiphon, without turns"
    tuning = "worker_threads = 1, logins_per_worker = 0"

    def prepare(self, accounts: Accounts) -> None:
        super().prepare(accounts)
        path = self.place.folder / "antiphon.toml"
        text = path.read_text()
        path.write_text(text.replace("[limits]\n", "[limits]\nlogins_per_worker = 0\n"))


KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (Antiphon, Unlimited, Prosody)}


def number(name: str, otherwise: int) -> int:
    """A variable of the environment. Exits with one line if it is no positive number."""
    text = os.environ.get(name, "") or str(otherwise)
    if not text.isdecimal() or int(text) < 1:
        sys.exit(f"storm: {name}={text}: a positive number")
    return int(text)


def generator(server: Server, *arguments: str, is_urgent: bool) -> subprocess.Popen[str]:
    """A generator on the other processor."""
    pinned = ["taskset", "-c", "1"] if server.place.cpu is not None else []
    # only root may be urgent
    nice = ["nice", "-n", "-15" if is_urgent else "10"] if os.geteuid() == 0 else []
    command = [*pinned, *nice, str(LOAD), *arguments, "--address", server.direct]
    return subprocess.Popen(
        [*command, "--tls", "direct", "--pid", str(server.pid)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """Its result. Raises ServerError with what it said."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ServerError(f"no end after {PATIENCE_S} s") from error
    if process.returncode != 0:
        raise ServerError(err.strip())
    result: dict[str, object] = json.loads(out)
    return result


def measure(server: Server, clients: int, rate: int, seconds: int) -> dict[str, object]:
    """Live sessions, with a storm beside them if there are clients. Raises ServerError.

    A storm that breaks off (a server may close what waits too long) is said in `storm_failed`.
    """
    live = generator(
        server, "msg", "--users", str(LIVE_USERS), "--connections", str(LIVE_USERS),
        "--rate", str(rate), "--warmup", str(LOGIN_S + BEFORE_S), "--seconds", str(seconds),
        is_urgent=True,
    )  # fmt: skip
    time.sleep(LOGIN_S)
    storm = None
    if clients:
        storm = generator(
            server, "login", "--users", str(USERS), "--window", str(clients),
            "--warmup", "0", "--seconds", str(BEFORE_S + seconds), is_urgent=False,
        )  # fmt: skip
    logins: dict[str, object] = {}
    failed = None
    try:
        result = finish(live)
        if storm is not None:
            try:
                logins = finish(storm)
            except ServerError as error:
                failed = str(error)
    finally:
        for process in (live, storm):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
    if "latency_ms" not in result:
        raise ServerError(f"no message arrived in {seconds} s; the storm: {failed or 'goes on'}")
    return {
        "server": server.name,
        "clients": clients,
        "live_ms": result["latency_ms"],
        "live_count": result["count"],
        "live_lost": result["lost"],
        "logins_per_s": logins.get("rate_per_s"),
        "login_ms": logins.get("latency_ms"),
        "storm_failed": failed,
    }


def cells(row: dict[str, object]) -> list[str]:
    """One repetition, as shown."""
    live, logins = row["live_ms"], row["logins_per_s"]
    assert isinstance(live, dict)
    times = [f"{float(live[name]):.2f}" for name in TIMES]
    shown = f"{logins:.0f}" if isinstance(logins, float | int) else str(row["storm_failed"] or "-")
    return [str(row["server"]), str(row["clients"]), *times, str(row["live_lost"]), shown]


HEAD = ["server", "clients", *(f"{name} ms" for name in TIMES), "lost", "logins/s"]


def verdict(rows: Sequence[dict[str, object]]) -> tuple[bool, str]:
    """Whether ours holds what is asked, and the sentence about it."""
    found = [
        float(live["p99"])
        for row in rows
        if row["server"] == Antiphon.name
        and row["clients"]
        and isinstance(live := row["live_ms"], dict)
    ]
    if not found:
        return False, "ours was not measured beside a storm"
    middle = median(found)
    told = "met" if middle <= MUST_MS else "**missed**"
    return middle <= MUST_MS, f"p99 beside the storm {middle:.1f} ms, must {MUST_MS} ms: {told}"


def write(
    base: Path, rows: list[dict[str, object]], about: dict[str, object], missing: int
) -> None:
    """Figures and table under `results/`; `missing`: measurements that are still to come."""
    document = {**about, "is_complete": not missing, "rows": rows}
    replace(base.with_name(f"{base.name}.json"), json.dumps(document, indent=1) + "\n")
    lines = [
        f"# {base.name}: {about['rate']} live messages a second beside a storm",
        "",
        *([f"**Interrupted**: {missing} measurements are missing.", ""] if missing else []),
        f"{verdict(rows)[1]}.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + "---|" * len(HEAD),
        *(f"| {' | '.join(cells(row))} |" for row in rows),
    ]
    replace(base.with_name(f"{base.name}.md"), "\n".join(lines) + "\n")


def storms(
    stage: Stage, chosen: Sequence[str], sizes: tuple[int, int, int], repetitions: int
) -> list[dict[str, object]]:
    """Each server in turn, without a storm and with one; `sizes`: clients, rate, seconds."""
    clients, rate, seconds = sizes
    commit = machine.commit()
    base = base_name(commit, "-storm")
    about: dict[str, object] = {
        "commit": commit, "machine": machine.describe(), "rate": rate, "seconds": seconds,
    }  # fmt: skip
    rows: list[dict[str, object]] = []
    cases = [(kind, size) for _ in range(repetitions) for kind in chosen for size in (0, clients)]
    each = LOGIN_S + BEFORE_S + seconds + AROUND_S
    say(f"storm: {len(cases)} measurements, about {minutes(len(cases) * each)}")
    say("".join(f"{title:>13}" for title in HEAD))
    for number, (kind, size) in enumerate(cases, 1):
        server = stage.server(KINDS[kind])
        try:
            server.start(Accounts(USERS))
            rows.append(measure(server, size, rate, seconds))
            left = minutes((len(cases) - number) * each)
            say("".join(f"{cell:>13}" for cell in cells(rows[-1])) + f"   {left} left")
        except ServerError as error:
            say(f"storm: {kind}, {size} clients: {error}")
        finally:
            server.stop()
        write(base, rows, about, len(cases) - number)
    say(f"storm: benchmarks/results/{base.name}.md")
    return rows


def main() -> int:
    """0: the target is met, or ours was not asked for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = sys.argv[1:] or list(KINDS)
    unknown = [name for name in chosen if name not in KINDS]
    if unknown:
        sys.exit(f"storm: no server {unknown[0]!r}; there are {', '.join(KINDS)}")
    sizes = number("CLIENTS", 5_000), number("RATE", 1_000), number("SECONDS_EACH", 8)
    repetitions = number("REPETITIONS", 3)
    allow_descriptors()
    build()
    with staged() as stage:
        rows = storms(stage, chosen, sizes, repetitions)
    if Antiphon.name not in chosen:
        return 0
    is_met, sentence = verdict(rows)
    say(f"storm: {sentence}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
