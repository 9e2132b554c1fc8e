# SPDX-License-Identifier: Apache-2.0
"""Loads Antiphon and its rivals in turn and writes what each spent: `make bench`.

    python benchmarks/run.py [SCENARIO]...    all: every scenario, also the slow ones
    QUICK=1                                   five minutes in total
    REPETITIONS=5 SECONDS_EACH=8              how often, and how long each

Servers run on processor 0, the generator on processor 1, in the order A B C A B C ...: neighbours
disturb all of them alike. Compare figures of one run only.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine, report
from bench.report import Result, Run
from bench.scenarios import SCENARIOS, USERS, Scenario
from bench.servers import SERVERS, Place, Server, ServerError, first_port

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD = ROOT / "target" / "release" / "antiphon-load"
# Logins, subscriptions and the drain come on top of the measured window.
PATIENCE_S = 420.0


def say(text: str) -> None:
    """Progress, at once even into a pipe."""
    print(text, flush=True)


def chosen(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of the command line. Exits with one line for an unknown one."""
    if not names:
        return [scenario for scenario in SCENARIOS if scenario.is_core]
    known = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        sys.exit(f"bench: no scenario {unknown[0]!r}; there are all, {', '.join(known)}")
    return list(SCENARIOS) if "all" in names else [known[name] for name in names]


def build() -> None:
    """Makes sure that the generator is built and the rivals are there."""
    command = ["cargo", "build", "--quiet", "--release", "-p", "antiphon-load"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit("bench: the load generator does not build")
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run([ROOT / "benchmarks" / "install.sh"], env=environment, check=False)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed P-256 certificate that every server's user can read."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "30", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"bench: openssl makes no certificate: {done.stderr.strip()}")
    key.chmod(0o644)
    return cert, key


def started(folder: Path, cpu: int | None) -> tuple[list[Server], dict[str, str]]:
    """Every server that is installed and starts, and their versions."""
    cert, key = certificate(folder)
    servers: list[Server] = []
    versions: dict[str, str] = {}
    for kind, port in SERVERS:
        try:
            place = Place(folder / kind.name, cert, key, first_port(port), cpu)
            versions[kind.name] = kind.version()
            server = kind(place)
            server.start(USERS)
        except ServerError as err:
            versions.pop(kind.name, None)
            say(f"bench: {kind.name} skipped: {err}")
        else:
            servers.append(server)
    return servers, versions


def measure(server: Server, scenario: Scenario, seconds: tuple[int, int]) -> Result:
    """One repetition. Raises ServerError with what the generator said."""
    warmup, window = seconds
    address, tls = (server.direct, "direct") if scenario.tls else (server.plain, "none")
    pinned = ["taskset", "-c", "1"] if server.place.cpu is not None else []
    command = [
        *pinned, str(LOAD), *scenario.arguments, "--address", address, "--tls", tls,
        "--users", str(scenario.users or USERS), "--pid", str(server.pid),
        "--warmup", str(warmup), "--seconds", str(window),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired as err:
        raise ServerError(f"no end after {PATIENCE_S:.0f} s") from err
    if done.returncode != 0:
        raise ServerError(done.stderr.strip())
    result: Result = json.loads(done.stdout)
    return result


def interleaved(
    servers: Sequence[Server],
    scenarios: Sequence[Scenario],
    repetitions: int,
    seconds: tuple[int, int],
) -> list[Run]:
    """All scenarios, each by all servers in turn. A repetition that fails is said and left out."""
    runs: list[Run] = []
    for scenario in scenarios:
        say(f"bench: {scenario.title}")
        for repetition in range(repetitions):
            for server in servers:
                try:
                    if scenario.users is not None:
                        server.restart(scenario.users)
                    result = measure(server, scenario, seconds)
                except ServerError as err:
                    say(f"  {server.name:9} failed: {err}")
                    continue
                runs.append(
                    {
                        "scenario": scenario.name,
                        "server": server.name,
                        "repetition": repetition,
                        "result": result,
                    }
                )
                values = report.cost([result], scenario)
                lost = f", {result['lost']} lost" if result.get("lost") else ""
                others = f"{result.get('other_cpu_s', 0):.1f} s of others' CPU"
                say(f"  {server.name:9} {values[0] if values else 0:10.2f}   ({others}{lost})")
    return runs


def write(
    runs: list[Run],
    scenarios: Sequence[Scenario],
    servers: Sequence[Server],
    about: dict[str, object],
) -> str:
    """Results, table and plots; the table is returned."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    base = f"{stamp}-{about['commit']}"
    (RESULTS / f"{base}.json").write_text(json.dumps({**about, "runs": runs}, indent=1) + "\n")
    columns = [(server.name, server.label) for server in servers]
    table = report.table(runs, scenarios, columns)
    plots = [
        f"{base}-{scenario.name}.png"
        for scenario in scenarios
        if report.results(runs, scenario, "antiphon")
        and report.plot(runs, scenario, columns, RESULTS / f"{base}-{scenario.name}.png")
    ]
    lines = [
        f"# {stamp}, commit {about['commit']}",
        "",
        f"`{about['command']}`; medians (least..most) of {about['repetitions']} repetitions.",
        "",
        *(f"- {key}: {value}" for key, value in dict(about["machine"]).items()),  # type: ignore[call-overload]
        *(f"- {s.label}: {about['versions'][s.name]}; `{s.tuning}`" for s in servers),  # type: ignore[index]
        "",
        table,
        *(f"![{name}]({name})" for name in plots),
    ]
    (RESULTS / f"{base}.md").write_text("\n".join(lines) + "\n")
    say(f"bench: benchmarks/results/{base}.md")
    return table


def main() -> None:
    # So that the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scenarios = chosen(sys.argv[1:])
    is_quick = os.environ.get("QUICK", "") not in ("", "0")
    repetitions = int(os.environ.get("REPETITIONS", "2" if is_quick else "5"))
    seconds = (1, 3) if is_quick else (2, int(os.environ.get("SECONDS_EACH", "8")))
    processors = os.sched_getaffinity(0)
    cpu = 0 if {0, 1} <= processors and shutil.which("taskset") else None
    build()
    about: dict[str, object] = {
        "commit": machine.commit(),
        "command": " ".join(["QUICK=1"] * is_quick + ["benchmarks/run.py", *sys.argv[1:]]),
        "machine": machine.describe(),
        "repetitions": repetitions,
        "seconds": seconds[1],
        "is_pinned": cpu is not None,
    }
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        servers, versions = started(folder, cpu)
        about["versions"] = versions
        about["tuning"] = {server.name: server.tuning for server in servers}
        try:
            runs = interleaved(servers, scenarios, repetitions, seconds)
        finally:
            for server in servers:
                server.stop()
    if not any(run["server"] == "antiphon" for run in runs):
        sys.exit("bench: nothing was measured")
    say("\n" + write(runs, scenarios, servers, about))


if __name__ == "__main__":
    main()
