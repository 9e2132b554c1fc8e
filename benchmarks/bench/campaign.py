# SPDX-License-Identifier: Apache-2.0
"""Starts servers, loads them in turn, and keeps what the generator prints."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from bench.accounts import Accounts
from bench.keeping import Keeping, Told
from bench.ours import Antiphon, AntiphonOne, AntiphonTwo
from bench.report import Run
from bench.rivals import Ejabberd, EjabberdDefault, Prosody, ProsodyDefault
from bench.scenarios import BEFRIENDED, LONELY, Scenario
from bench.server import Server, ServerError
from bench.stage import Stage
from bench.targets import Result

TUNED: tuple[type[Server], ...] = (Antiphon, Prosody, Ejabberd)
DEFAULT: tuple[type[Server], ...] = (ProsodyDefault, EjabberdDefault)
WORKERS: tuple[type[Server], ...] = (AntiphonOne, AntiphonTwo)

# The generator's throw-away logins and its pause after them.
THROW_AWAY_S = 3.0


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
    messages: int
    """In the store that is searched."""


class Campaign:
    """One run: what was measured so far, and who failed."""

    def __init__(self, stage: Stage, plan: Plan, kinds: Sequence[type[Server]]) -> None:
        self.stage = stage
        self.plan = plan
        self.kinds = kinds
        self.runs: list[Run] = []
        self.failures: list[str] = []
        self._turn = threading.Lock()

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """Everything, each kind of scenario in its own way."""
        by_kind = {
            kind: [scenario for scenario in scenarios if scenario.kind == kind]
            for kind in ("cpu", "memory", "workers", "crossings", "archive", "filled", "disk")
        }
        if by_kind["memory"]:
            self._memory(by_kind["memory"])
        if shared := [*by_kind["cpu"], *by_kind["crossings"]]:
            self._shared(shared)
        if by_kind["workers"]:
            self._workers(by_kind["workers"])
        if kept := [*by_kind["archive"], *by_kind["filled"], *by_kind["disk"]]:
            told = Told(self.measure, self._keep, self._failed, say)
            keeping = Keeping(self.stage, told, self.kinds)
            keeping.run(kept, self.plan.repetitions, self.plan.messages)

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
        """A new process for each figure. Many at once, but only one is logged in to at a time:

        what an allocator keeps after a storm depends on how busy the machine was.
        """
        say("bench: idle connections, each server and repetition in a process of its own")
        cells = [
            (scenario, kind) for scenario in scenarios for kind in self.kinds if not kind.is_default
        ]
        for repetition in range(self.plan.memory_repetitions):
            with ThreadPoolExecutor(len(cells)) as pool:
                servers = list(pool.map(lambda cell: self._fresh(*cell), cells))
                try:
                    waiting = [
                        (scenario, server, pool.submit(self._gated, server, scenario))
                        for (scenario, _), server in zip(cells, servers, strict=True)
                        if server is not None
                    ]
                    for scenario, server, future in waiting:
                        try:
                            result = future.result()
                        except ServerError as err:
                            self._failed(f"{scenario.name}, {server.name}: {err}")
                        else:
                            self._keep(scenario, server, repetition, result)
                finally:
                    list(pool.map(Server.stop, [server for server in servers if server]))

    def _fresh(self, scenario: Scenario, kind: type[Server]) -> Server | None:
        """A server with accounts of its own, started; None if it does not start."""
        try:
            server = self.stage.server(kind)
            server.start(scenario.accounts(self.plan.connections))
        except ServerError as err:
            self._failed(f"{scenario.name}, {kind.name}: {err}")
            return None
        return server

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
        if scenario.kind == "disk":
            say(f"  {server.name:16} {result['bytes_each']:10.1f}   {scenario.title}")
            return
        cost = result.get("server_ms_per_1000") or 0.0
        lost = f", {result['lost']} lost" if result.get("lost") else ""
        others = f"{result.get('other_cpu_s', 0):.1f} s of others' CPU"
        say(f"  {server.name:16} {cost:10.2f}   ({others}{lost})")

    def _failed(self, text: str) -> None:
        self.failures.append(text)
        say(f"  {text}: left out")

    def _arguments(self, server: Server, scenario: Scenario) -> list[str]:
        """The generator's command."""
        plan = self.plan
        address, tls = (server.direct, "direct") if scenario.tls else (server.plain, "none")
        pinned = ["taskset", "-c", "1"] if server.place.cpu is not None else []
        arguments = [*pinned, str(self.stage.load), *scenario.arguments]
        arguments += ["--address", address, "--tls", tls, "--pid", str(server.pid)]
        if scenario.kind == "memory":
            count = str(len(scenario.accounts(plan.connections).names))
            arguments += ["--connections", count, "--users", count, "--settle", str(plan.settle)]
            arguments += ["--gate", "1"]
        else:
            window = plan.seconds * scenario.stretch
            arguments += ["--warmup", f"{plan.warmup:g}", "--seconds", f"{window:g}"]
        if scenario.has_words:
            arguments += ["--words", str(self.stage.words)]
        if server.database:
            arguments += ["--database", str(server.database)]
        if scenario.kind == "crossings":
            arguments += ["--metrics", server.administration]
        return arguments

    def measure(self, server: Server, scenario: Scenario) -> Result:
        """One repetition. Raises ServerError with what the generator said."""
        try:
            done = subprocess.run(
                self._arguments(server, scenario),
                capture_output=True,
                text=True,
                check=False,
                timeout=self.plan.patience_s,
            )
        except subprocess.TimeoutExpired as err:
            raise ServerError(f"no end after {self.plan.patience_s:.0f} s") from err
        return _result(done.returncode, done.stdout, done.stderr)

    def _gated(self, server: Server, scenario: Scenario) -> Result:
        """The same, its logins when it is its turn. Raises ServerError."""
        with subprocess.Popen(
            self._arguments(server, scenario),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as load:
            # The end of the generator ends both readings below: it is never waited for in vain.
            timer = threading.Timer(2 * self.plan.patience_s, load.kill)
            timer.start()
            try:
                # Twenty logins are thrown away first.
                time.sleep(THROW_AWAY_S)
                with self._turn:
                    _pipe(load.stdin).write("go\n")
                    _pipe(load.stdin).flush()
                    said = _pipe(load.stderr).readline()
                out, err = load.communicate()
            except BrokenPipeError:
                out, said, err = "", "", _pipe(load.stderr).read()
            finally:
                timer.cancel()
        return _result(load.returncode, out, said + err)


def _pipe(end: IO[str] | None) -> IO[str]:
    """A pipe that was asked for is there."""
    assert end is not None
    return end


def _result(code: int, out: str, err: str) -> Result:
    """What the generator printed. Raises ServerError."""
    if code != 0:
        raise ServerError(err.strip() or f"the generator ended with {code}")
    result: Result = json.loads(out)
    return result


def _stop(servers: Sequence[Server]) -> None:
    for server in servers:
        server.stop()
