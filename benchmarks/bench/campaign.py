# SPDX-License-Identifier: Apache-2.0
"""Starts servers, loads them in turn, and keeps what the generator prints."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from bench.accounts import Accounts
from bench.keeping import Keeping, Told
from bench.ours import Antiphon, AntiphonOne, AntiphonTwo
from bench.plan import Plan
from bench.progress import Progress, minutes
from bench.report import Run
from bench.rivals import Ejabberd, EjabberdDefault, Prosody, ProsodyDefault
from bench.scenarios import BEFRIENDED, LONELY, Scenario
from bench.server import Server, ServerError, stop_all
from bench.stage import Stage
from bench.stores import Stores
from bench.targets import Result

TUNED: tuple[type[Server], ...] = (Antiphon, Prosody, Ejabberd)
DEFAULT: tuple[type[Server], ...] = (ProsodyDefault, EjabberdDefault)
WORKERS: tuple[type[Server], ...] = (AntiphonOne, AntiphonTwo)

# The generator's throw-away logins and its pause after them.
THROW_AWAY_S = 3.0


def say(text: str) -> None:
    """Progress, at once even into a pipe."""
    print(text, flush=True)


class Campaign:
    """One run: what was measured so far, and who failed."""

    def __init__(
        self,
        stage: Stage,
        plan: Plan,
        kinds: Sequence[type[Server]],
        saved: Callable[[Campaign], None],
    ) -> None:
        """`saved` is called after each row: what is known then must not be lost."""
        self.stage = stage
        self.plan = plan
        self.kinds = kinds
        self.runs: list[Run] = []
        self.failures: list[str] = []
        self.progress = Progress([], plan.limit_s)
        self._saved = saved
        self._turn = threading.Lock()

    def run(self, scenarios: Sequence[Scenario], stores: Stores) -> None:
        """Everything, each kind of scenario in its own way."""
        default = sum(kind.is_default for kind in self.kinds)
        tasks = self.plan.tasks(
            scenarios,
            (len(self.kinds) - default, default),
            is_cached=stores.has(self.plan.messages),
        )
        self.progress = Progress(tasks, self.plan.limit_s)
        say(f"bench: {len(scenarios)} rows, about {minutes(self.progress.remaining_s())}")
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
        if kept := [one for one in scenarios if one.kind in ("archive", "filled", "disk")]:
            told = Told(self.measure, self.keep, self.failed, self.took, say)
            Keeping(self.stage, self.plan, self.progress, told, self.kinds, stores).run(kept)

    def _shared(self, scenarios: Sequence[Scenario]) -> None:
        """All servers at once, one of them under load at a time: A B C A B C ..."""
        servers = self._started(self.kinds, Accounts(LONELY, BEFRIENDED))
        try:
            for scenario in scenarios:
                is_ours = scenario.kind == "crossings"
                chosen = [one for one in servers if not (is_ours and one.is_rival)]
                self._in_turn(scenario, chosen)
        finally:
            stop_all(servers)

    def _workers(self, scenarios: Sequence[Scenario]) -> None:
        """Both processors for everybody, the generator too: the two differ in nothing else."""
        servers = self._started(WORKERS, Accounts(LONELY), is_pinned=False)
        try:
            for scenario in scenarios:
                self._in_turn(scenario, servers)
        finally:
            stop_all(servers)

    def _started(
        self, kinds: Sequence[type[Server]], accounts: Accounts, *, is_pinned: bool = True
    ) -> list[Server]:
        """Those that start, in order."""
        with ThreadPoolExecutor(len(kinds)) as pool:
            found = pool.map(lambda kind: self._start(kind, accounts, is_pinned=is_pinned), kinds)
            return [server for server in found if server is not None]

    def _start(
        self, kind: type[Server], accounts: Accounts, *, is_pinned: bool = True, name: str = ""
    ) -> Server | None:
        """A server of its own; None if it does not start. `name`: the scenario, if it has one."""
        try:
            server = self.stage.server(kind, is_pinned=is_pinned)
            server.start(accounts)
        except ServerError as err:
            self.failed(f"{name}, {kind.name}: {err}" if name else f"{kind.name}: {err}")
            return None
        return server

    def _in_turn(self, scenario: Scenario, servers: Sequence[Server]) -> None:
        self.say_next(scenario.title)
        for repetition in range(self.plan.repetitions):
            if not self.progress.may(scenario.name, repetition):
                continue
            begun = self.progress.elapsed_s
            for server in servers:
                if server.is_default and repetition >= self.plan.default_repetitions:
                    continue
                try:
                    result = self.measure(server, scenario)
                except ServerError as err:
                    self.failed(f"{scenario.name}, {server.name}: {err}")
                    continue
                self.keep(scenario, server, repetition, result)
            self.took([(scenario.name, repetition)], begun)

    def _memory(self, scenarios: Sequence[Scenario]) -> None:
        """A new process for each figure. Many at once, but only one is logged in to at a time:

        what an allocator keeps after a storm depends on how busy the machine was.
        """
        for repetition in range(self.plan.memory_repetitions):
            wanted = [one for one in scenarios if self.progress.may(one.name, repetition)]
            cells = [
                (scenario, kind)
                for scenario in wanted
                for kind in self.kinds
                if not kind.is_default or repetition < self.plan.default_repetitions
            ]
            if not cells:
                continue
            self.say_next("idle connections, each server and row in a process of its own")
            begun = self.progress.elapsed_s
            self._cells(cells, repetition)
            self.took([(one.name, repetition) for one in wanted], begun)

    def _cells(self, cells: Sequence[tuple[Scenario, type[Server]]], repetition: int) -> None:
        """One repetition of all of these."""
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
                        self.failed(f"{scenario.name}, {server.name}: {err}")
                    else:
                        self.keep(scenario, server, repetition, result)
            finally:
                stop_all([server for server in servers if server])

    def _fresh(self, scenario: Scenario, kind: type[Server]) -> Server | None:
        """A server with accounts of its own, started; None if it does not start."""
        accounts = scenario.accounts(self.plan.connections)
        return self._start(kind, accounts, name=scenario.name)

    def say_next(self, title: str) -> None:
        """What begins, and how long all that is left will take."""
        say(f"bench: {title} ({self.progress})")

    def took(self, tasks: Sequence[tuple[str, int]], begun_s: float) -> None:
        """These are done, begun at that time of the run."""
        self.progress.done(tasks, self.progress.elapsed_s - begun_s)
        self._saved(self)

    def keep(self, scenario: Scenario, server: Server, repetition: int, result: Result) -> None:
        """A figure for the results."""
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

    def failed(self, text: str) -> None:
        """What the results will lack, and why."""
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
            arguments += ["--warmup", f"{plan.warmup:g}"]
            arguments += ["--seconds", f"{plan.window(scenario):g}"]
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
