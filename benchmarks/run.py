# SPDX-License-Identifier: Apache-2.0
"""Loads Antiphon and its rivals in turn and writes what each spent: `make bench`.

    python benchmarks/run.py [SCENARIO]...    all, cassandra, or without names: all but Cassandra's
    QUICK=1                                   five minutes: rivals only tuned, short windows, a
                                              tenth of the messages in the store that is searched
    REPETITIONS=3 SECONDS_EACH=5              how often, and how long each

Servers run on processor 0, the generator on processor 1, in the order A B C A B C ...: neighbours
disturb all of them alike. Compare figures of one run only. The results are written after each row;
those of a run that was broken off say so.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import machine, text
from bench.campaign import DEFAULT, TUNED, Campaign, say
from bench.ours import Antiphon
from bench.plan import Plan, full, quick
from bench.results import Results, base_name
from bench.scenarios import SCENARIOS, Scenario
from bench.server import Ports, Server, ServerError, stop_all
from bench.stage import Stage
from bench.stores import Stores

ROOT = Path(__file__).resolve().parents[1]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
LOAD = RELEASE / "antiphon-load"
FILL = RELEASE / "examples" / "fill_archive"


def chosen(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of the command line. Exits with one line for an unknown one."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    groups = {
        "all": list(SCENARIOS),
        "cassandra": [one for one in SCENARIOS if one.backend == "cassandra"],
    }
    if not names:
        return [one for one in SCENARIOS if one.backend != "cassandra"]
    found: list[Scenario] = []
    for name in names:
        if name not in known and name not in groups:
            sys.exit(f"bench: no scenario {name!r}; there are {', '.join((*groups, *known))}")
        found += groups.get(name) or [known[name]]
    return [scenario for scenario in SCENARIOS if scenario in found]


def number(name: str) -> int | None:
    """A variable of the environment. Exits with one line if it is no number from 1 to 600."""
    value = os.environ.get(name, "")
    if not value:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= 600:
        sys.exit(f"bench: {name}={value}: a number from 1 to 600")
    return int(value)


def planned(*, is_quick: bool) -> Plan:
    """Quick or not, and what the environment says."""
    return (quick if is_quick else full)(number("REPETITIONS"), number("SECONDS_EACH"))


def build(scenarios: Sequence[Scenario] = ()) -> None:
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


@contextmanager
def staged() -> Iterator[Stage]:
    """Where servers run; none of them outlives it."""
    is_pinned = {0, 1} <= os.sched_getaffinity(0) and shutil.which("taskset") is not None
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        words = folder / "words.txt"
        text.write(words)
        stage = Stage(folder, *certificate(folder), Ports(), is_pinned, LOAD, FILL, words)
        try:
            yield stage
        finally:
            stop_all(stage.made)


def facts(about: dict[str, object], plan: Plan, versions: dict[type[Server], str]) -> list[str]:
    """The head of the results."""
    return [
        f"`{about['command']}`; medians (least..most) of {plan.repetitions} repetitions of "
        f"{plan.seconds:g} s (idle connections: {plan.memory_repetitions}; rivals as they come: "
        f"{plan.default_repetitions}); stores of {plan.messages:,} messages.",
        "",
        *(f"- {key}: {value}" for key, value in machine.describe().items()),
        *(
            f"- {kind.label}: {version}" + (f"; `{kind.tuning}`" if kind.tuning else "")
            for kind, version in versions.items()
        ),
    ]


def wanted(scenarios: Sequence[Scenario], *, is_quick: bool) -> Sequence[type[Server]]:
    """The servers of a run."""
    if all(scenario.backend == "cassandra" for scenario in scenarios):
        return (Antiphon,)
    return TUNED if is_quick else (*TUNED, *DEFAULT)


def main() -> None:
    # So that the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_quick = os.environ.get("QUICK", "") not in ("", "0")
    scenarios = chosen(sys.argv[1:])
    plan = planned(is_quick=is_quick)
    build(scenarios)
    allow_descriptors()
    versions = installed(wanted(scenarios, is_quick=is_quick))
    with staged() as stage:
        about: dict[str, object] = {
            "commit": machine.commit(),
            "command": " ".join(["QUICK=1"] * is_quick + ["benchmarks/run.py", *sys.argv[1:]]),
            "machine": machine.describe(),
            "plan": vars(plan),
            "is_pinned": stage.is_pinned,
            "versions": {kind.name: version for kind, version in versions.items()},
            "tuning": {kind.name: kind.tuning for kind in versions},
        }
        results = Results(
            base_name(about["commit"]), about, facts(about, plan, versions), scenarios
        )
        campaign = Campaign(stage, plan, list(versions), results.save)
        is_complete = False
        try:
            campaign.run(scenarios, Stores(stage.fill, stage.words))
            is_complete = True
        finally:
            if campaign.runs:
                table = results.save(campaign, is_complete=is_complete, is_over=True)
                say(f"bench: benchmarks/results/{results.base.name}.md\n\n{table}")
    if not any(run["server"].startswith("antiphon") for run in campaign.runs):
        sys.exit("bench: nothing was measured")


if __name__ == "__main__":
    main()
