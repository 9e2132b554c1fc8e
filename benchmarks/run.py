# SPDX-License-Identifier: Apache-2.0
"""Loads Antiphon and its rivals in turn and writes what each spent: `make bench`.

    python benchmarks/run.py [SCENARIO]...    all, or without names: every scenario
    QUICK=1                                   six minutes in total, rivals only tuned; without
                                              names one row about archives, not all of them
    REPETITIONS=3 SECONDS_EACH=6              how often, and how long each

Servers run on processor 0, the generator on processor 1, in the order A B C A B C ...: neighbours
disturb all of them alike. Compare figures of one run only.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import machine, plots, report, text
from bench.campaign import DEFAULT, TUNED, WORKERS, Campaign, Plan, say
from bench.scenarios import SCENARIOS, Scenario
from bench.server import Ports, Server, ServerError
from bench.stage import Stage
from bench.targets import ROWS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RELEASE = ROOT / "target" / "release"
LOAD = RELEASE / "antiphon-load"
FILL = RELEASE / "examples" / "fill_archive"


def is_short(scenario: Scenario) -> bool:
    """Whether a quick run has time for it: of those about archives one."""
    is_about_archives = scenario.backend != "none" or scenario.name == "ack-plain"
    return scenario.name == "msg-archive" or not is_about_archives


def chosen(names: Sequence[str], *, is_quick: bool) -> list[Scenario]:
    """The scenarios of the command line. Exits with one line for an unknown one."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in names if name != "all" and name not in known]
    if unknown:
        sys.exit(f"bench: no scenario {unknown[0]!r}; there are all, {', '.join(known)}")
    if "all" in names:
        return list(SCENARIOS)
    if not names:
        return [scenario for scenario in SCENARIOS if not is_quick or is_short(scenario)]
    return [scenario for scenario in SCENARIOS if scenario.name in names]


def number(name: str, otherwise: int) -> int:
    """A variable of the environment. Exits with one line if it is no number from 1 to 600."""
    text = os.environ.get(name, "") or str(otherwise)
    if not text.isdecimal() or not 1 <= int(text) <= 600:
        sys.exit(f"bench: {name}={text}: a number from 1 to 600")
    return int(text)


def planned(*, is_quick: bool) -> Plan:
    """Quick or not, and what the environment says."""
    if is_quick:
        return Plan(
            repetitions=number("REPETITIONS", 2),
            seconds=number("SECONDS_EACH", 2),
            warmup=0.5,
            patience_s=90.0,
            connections=1000,
            settle=12,
            memory_repetitions=1,
            messages=100_000,
        )
    repetitions = number("REPETITIONS", 3)
    return Plan(
        repetitions=repetitions,
        seconds=number("SECONDS_EACH", 6),
        warmup=2.0,
        patience_s=600.0,
        connections=2000,
        settle=25,
        memory_repetitions=min(repetitions, 3),
        messages=1_000_000,
    )


def build(scenarios: Sequence[Scenario]) -> None:
    """Makes sure that the generator is built and the rivals are there."""
    built = [["antiphon-load"]]
    if any(scenario.kind in ("filled", "disk") for scenario in scenarios):
        built.append(["antiphon-store", "--example", FILL.name])
    for words in built:
        command = ["cargo", "build", "--quiet", "--release", "-p", *words]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            sys.exit(f"bench: {words[-1]} does not build")
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
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("bench: openssl is missing: install it")
    if done.returncode != 0:
        sys.exit(f"bench: openssl makes no certificate: {done.stderr.strip()}")
    key.chmod(0o644)
    return cert, key


def installed(kinds: Sequence[type[Server]]) -> dict[type[Server], str]:
    """Those that are there, with their versions."""
    found: dict[type[Server], str] = {}
    for kind in kinds:
        try:
            found[kind] = kind.version()
        except ServerError as err:
            say(f"bench: {kind.name} skipped: {err}")
    return found


def allow_descriptors() -> None:
    """As many as the system lets: every idle connection is one, here and in the servers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def write(
    campaign: Campaign, scenarios: Sequence[Scenario], about: dict[str, object], facts: list[str]
) -> str:
    """Results, tables and plots; the first table is returned."""
    RESULTS.mkdir(exist_ok=True)
    runs, kinds = campaign.runs, campaign.kinds
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    base = f"{stamp}-{about['commit']}"
    rows = [row for one in ROWS if (row := report.judged(runs, one, kinds)) is not None]
    document = {**about, "rows": rows, "failures": campaign.failures, "runs": runs}
    (RESULTS / f"{base}.json").write_text(json.dumps(document, indent=1) + "\n")
    labels = {kind.name: kind.label for kind in (*kinds, *WORKERS)}
    names: list[str] = []
    if plots.is_possible():
        name = f"{base}.png"
        if plots.overview(rows, RESULTS / name):
            names.append(name)
        for scenario in scenarios:
            name = f"{base}-{scenario.name}.png"
            if plots.plot(runs, scenario, labels, RESULTS / name):
                names.append(name)
    table = report.table(runs, kinds)
    lines = [
        f"# {stamp}, commit {about['commit']}",
        "",
        *facts,
        "",
        table,
        *(f"- left out: {text.splitlines()[0]}" for text in campaign.failures),
        "",
        "## Around the figures",
        "",
        report.asides(runs, scenarios, labels),
        *(f"![{name}]({name})" for name in names),
    ]
    (RESULTS / f"{base}.md").write_text("\n".join(lines) + "\n")
    say(f"bench: benchmarks/results/{base}.md")
    return table


def main() -> None:
    # So that the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_quick = os.environ.get("QUICK", "") not in ("", "0")
    scenarios = chosen(sys.argv[1:], is_quick=is_quick)
    plan = planned(is_quick=is_quick)
    is_pinned = {0, 1} <= os.sched_getaffinity(0) and shutil.which("taskset") is not None
    build(scenarios)
    allow_descriptors()
    versions = installed(TUNED if is_quick else (*TUNED, *DEFAULT))
    about: dict[str, object] = {
        "commit": machine.commit(),
        "command": " ".join(["QUICK=1"] * is_quick + ["benchmarks/run.py", *sys.argv[1:]]),
        "machine": machine.describe(),
        "plan": vars(plan),
        "is_pinned": is_pinned,
        "versions": {kind.name: version for kind, version in versions.items()},
        "tuning": {kind.name: kind.tuning for kind in versions},
    }
    facts = [
        f"`{about['command']}`; medians (least..most) of {plan.repetitions} repetitions of "
        f"{plan.seconds:g} s.",
        "",
        *(f"- {key}: {value}" for key, value in machine.describe().items()),
        *(
            f"- {kind.label}: {version}" + (f"; `{kind.tuning}`" if kind.tuning else "")
            for kind, version in versions.items()
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        words = folder / "words.txt"
        text.write(words)
        stage = Stage(folder, *certificate(folder), Ports(), is_pinned, LOAD, FILL, words)
        campaign = Campaign(stage, plan, list(versions))
        campaign.run(scenarios)
    if not any(run["server"].startswith("antiphon") for run in campaign.runs):
        sys.exit("bench: nothing was measured")
    say("\n" + write(campaign, scenarios, about, facts))


if __name__ == "__main__":
    main()
