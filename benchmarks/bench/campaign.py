# SPDX-License-Identifier: Apache-2.0
"""Starts servers, loads them in turn, and keeps what the generator prints."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.accounts import Accounts
from bench.ours import Antiphon, AntiphonOne, AntiphonTwo
from bench.report import Run
from bench.rivals import Ejabberd, EjabberdDefault, Prosody, ProsodyDefault
from bench.scenarios import BEFRIENDED, LONELY, Scenario
from bench.server import Place, Ports, Server, ServerError
from bench.targets import Result

TUNED: tuple[type[Server], ...] = (Antiphon, Prosody, Ejabberd)
DEFAULT: tuple[type[Server], ...] = (ProsodyDefault, EjabberdDefault)
WORKERS: tuple[type[Server], ...] = (AntiphonOne, AntiphonTwo)

# Servers at once where only memory is looked at.
AT_ONCE = 12


def say(text: str) -> None:
    """Progress, at once even into a pipe."""
    print(text, flush=True)


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    repetitions: int
    seconds: float
    warmup: float
    patience_s: float
    """For one repetition, logins and the drain included."""
    connections: int
    """Idle ones."""
    settle: int
    """Seconds until their memory is read."""
    memory_repetitions: int


@dataclass(frozen=True)
class Stage:
    """What all servers share."""

    folder: Path
    certificate: Path
    key: Path
    ports: Ports
    is_pinned: bool
    load: Path

    def server(self, kind: type[Server], *, is_pinned: bool = True) -> Server:
        """A server in a folder of its own, not started. Raises ServerError without ports."""
        port = self.ports.take()
        cpu = 0 if self.is_pinned and is_pinned else None
        folder = self.folder / f"{kind.name}-{port}"
        return kind(Place(folder, self.certificate, self.key, port, cpu))


class Campaign:
    """One run: what was measured so far, and who failed."""

    def __init__(self, stage: Stage, plan: Plan, kinds: Sequence[type[Server]]) -> None:
        self.stage = stage
        self.plan = plan
        self.kinds = kinds
        self.runs: list[Run] = []
        self.failures: list[str] = []

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """Everything, each kind of scenario in its own way."""
        by_kind = {
            kind: [scenario for scenario in scenarios if scenario.kind == kind]
            for kind in ("cpu", "memory", "workers", "crossings")
        }
        if by_kind["memory"]:
            self._memory(by_kind["memory"])
        if shared := [*by_kind["cpu"], *by_kind["crossings"]]:
            self._shared(shared)
        if by_kind["workers"]:
            self._workers(by_kind["workers"])

    def _shared(self, scenarios: Sequence[Scenario]) -> None:
        """All servers at once, one of them under load at a time: A B C A B C ..."""
        needed = [
            kind
            for kind in self.kinds
            if not kind.is_default or any(scenario.with_defaults for scenario in scenarios)
        ]
        servers = self._started(needed, Accounts(LONELY, BEFRIENDED))
        try:
            for scenario in scenarios:
                chosen = [
                    server
                    for server in servers
                    if (scenario.kind != "crossings" or not server.is_rival)
                    and (scenario.with_defaults or not server.is_default)
                ]
                self._in_turn(scenario, chosen)
        finally:
            _stop(servers)

    def _workers(self, scenarios: Sequence[Scenario]) -> None:
        """Both processors for everybody, the generator too: the two differ in nothing else."""
        servers = self._started(WORKERS, Accounts(LONELY), is_pinned=False)
        try:
            for scenario in scenarios:
                self._in_turn(scenario, servers)
        finally:
            _stop(servers)

    def _started(
        self, kinds: Sequence[type[Server]], accounts: Accounts, *, is_pinned: bool = True
    ) -> list[Server]:
        """Those that start, in order."""
        servers: list[Server] = []
        try:
            for kind in kinds:
                server = self.stage.server(kind, is_pinned=is_pinned)
                try:
                    server.start(accounts)
                except ServerError as err:
                    self._failed(f"{kind.name}: {err}")
                else:
                    servers.append(server)
        except BaseException:
            _stop(servers)
            raise
        return servers

    def _in_turn(self, scenario: Scenario, servers: Sequence[Server]) -> None:
        say(f"bench: {scenario.title}")
        for repetition in range(self.plan.repetitions):
            for server in servers:
                try:
                    result = self.measure(server, scenario)
                except ServerError as err:
                    self._failed(f"{scenario.name}, {server.name}: {err}")
                    continue
                self._keep(scenario, server, repetition, result)

    def _memory(self, scenarios: Sequence[Scenario]) -> None:
        """A new process for each figure. Many at once: they compete for time, not for memory."""
        tuned = [kind for kind in self.kinds if not kind.is_default]
        say("bench: idle connections, each server and repetition in a process of its own")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            waiting = [
                (scenario, kind, pool.submit(self._idle, kind, scenario), repetition)
                for repetition in range(self.plan.memory_repetitions)
                for scenario in scenarios
                for kind in tuned
            ]
            for scenario, kind, future, repetition in waiting:
                try:
                    server, result = future.result()
                except ServerError as err:
                    self._failed(f"{scenario.name}, {kind.name}: {err}")
                    continue
                self._keep(scenario, server, repetition, result)

    def _idle(self, kind: type[Server], scenario: Scenario) -> tuple[Server, Result]:
        server = self.stage.server(kind)
        server.start(scenario.accounts(self.plan.connections))
        try:
            return server, self.measure(server, scenario)
        finally:
            server.stop()
            shutil.rmtree(server.place.folder, ignore_errors=True)

    def _keep(self, scenario: Scenario, server: Server, repetition: int, result: Result) -> None:
        self.runs.append(
            {
                "scenario": scenario.name,
                "server": server.name,
                "repetition": repetition,
                "result": result,
            }
        )
        if scenario.kind == "memory":
            say(f"  {server.name:16} {result['memory_kib']['rss_each']:10.2f}   {scenario.title}")
            return
        cost = result.get("server_ms_per_1000") or 0.0
        lost = f", {result['lost']} lost" if result.get("lost") else ""
        others = f"{result.get('other_cpu_s', 0):.1f} s of others' CPU"
        say(f"  {server.name:16} {cost:10.2f}   ({others}{lost})")

    def _failed(self, text: str) -> None:
        self.failures.append(text)
        say(f"  {text}: left out")

    def measure(self, server: Server, scenario: Scenario) -> Result:
        """One repetition. Raises ServerError with what the generator said."""
        plan = self.plan
        address, tls = (server.direct, "direct") if scenario.tls else (server.plain, "none")
        arguments = [*scenario.arguments, "--address", address, "--tls", tls]
        arguments += ["--pid", str(server.pid)]
        if scenario.kind == "memory":
            count = str(plan.connections)
            arguments += ["--connections", count, "--users", count, "--settle", str(plan.settle)]
        else:
            window = plan.seconds * scenario.stretch
            arguments += ["--warmup", f"{plan.warmup:g}", "--seconds", f"{window:g}"]
        if scenario.kind == "crossings":
            arguments += ["--metrics", server.administration]
        pinned = ["taskset", "-c", "1"] if server.place.cpu is not None else []
        try:
            done = subprocess.run(
                [*pinned, str(self.stage.load), *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=plan.patience_s,
            )
        except subprocess.TimeoutExpired as err:
            raise ServerError(f"no end after {plan.patience_s:.0f} s") from err
        if done.returncode != 0:
            raise ServerError(done.stderr.strip())
        result: Result = json.loads(done.stdout)
        return result


def _stop(servers: Sequence[Server]) -> None:
    for server in servers:
        server.stop()
