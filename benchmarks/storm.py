# SPDX-License-Identifier: Apache-2.0
"""How live sessions fare while 5,000 clients log in, with admission control and without.

    python benchmarks/storm.py [SERVER]...    antiphon antiphon-off prosody (all, unless named)
    CLIENTS=5000 RATE=1000 SECONDS_EACH=8 REPETITIONS=3

Live sessions exchange messages at a fixed rate, sent at times fixed before; beside them a second
generator keeps so many logins by direct TLS and SCRAM under way, each client coming back when it is
through. The server has processor 0, both generators share processor 1, the one that measures before
the other. Prints one line for each repetition and writes all to `results/`.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import machine
from bench.accounts import Accounts
from bench.campaign import Stage, say
from bench.ours import Antiphon
from bench.rivals import Prosody
from bench.server import Ports, Server, ServerError
from run import LOAD, RESULTS, allow_descriptors, build, certificate

LIVE_USERS = 20
USERS = 200
LOGIN_S = 2
"""Until the live sessions are there."""
BEFORE_S = 3
"""The storm is under way so long before the measured window begins."""
PATIENCE_S = 180
TIMES = ("p50", "p99", "p99_9", "max")


class Unlimited(Antiphon):
    """Ours without admission control."""

    name = "antiphon-off"
    label = "Antiphon, without turns"
    tuning = "worker_threads = 1, logins_per_worker = 0"

    def prepare(self, accounts: Accounts) -> None:
        super().prepare(accounts)
        path = self.place.folder / "antiphon.toml"
        # the table [limits] is the last one
        path.write_text(path.read_text() + "logins_per_worker = 0\n")


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


def write(rows: list[dict[str, object]], rate: int, seconds: int) -> None:
    """Figures and table under `results/`."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    base = RESULTS / f"{stamp}-{machine.commit()}-storm"
    about = {"machine": machine.describe(), "rate": rate, "seconds": seconds, "rows": rows}
    base.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    heading = f"# {stamp}, commit {machine.commit()}: {rate} live messages a second beside a storm"
    lines = [heading, "", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    base.with_suffix(".md").write_text("\n".join(lines) + "\n")
    say(f"storm: benchmarks/results/{base.name}.md")


def main() -> None:
    """Each server in turn, without a storm and with one."""
    chosen = sys.argv[1:] or list(KINDS)
    unknown = [name for name in chosen if name not in KINDS]
    if unknown:
        sys.exit(f"storm: no server {unknown[0]!r}; there are {', '.join(KINDS)}")
    clients, rate = number("CLIENTS", 5_000), number("RATE", 1_000)
    seconds, repetitions = number("SECONDS_EACH", 8), number("REPETITIONS", 3)
    allow_descriptors()
    build()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="antiphon-storm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        cert, key = certificate(folder)
        is_pinned = {0, 1} <= os.sched_getaffinity(0)
        stage = Stage(folder, cert, key, Ports(), is_pinned, LOAD)
        say("".join(f"{title:>13}" for title in HEAD))
        for _ in range(repetitions):
            for kind in chosen:
                for size in (0, clients):
                    server = stage.server(KINDS[kind])
                    try:
                        server.start(Accounts(USERS))
                        rows.append(measure(server, size, rate, seconds))
                        say("".join(f"{cell:>13}" for cell in cells(rows[-1])))
                    except ServerError as error:
                        say(f"storm: {kind}, {size} clients: {error}")
                    finally:
                        server.stop()
    write(rows, rate, seconds)


if __name__ == "__main__":
    main()
