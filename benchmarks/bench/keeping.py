# SPDX-License-Identifier: Apache-2.0
"""Measures servers with archives: new ones for each repetition, or one that was filled before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bench.accounts import Accounts
from bench.archives import ARCHIVES, USERS, AntiphonArchive, AntiphonCassandra, AntiphonUnkept
from bench.database import Database
from bench.ours import Antiphon
from bench.plan import Plan
from bench.progress import Progress
from bench.scenarios import LONELY, Backend, Scenario
from bench.server import Server, ServerError, stop_all
from bench.stage import Stage
from bench.stores import Stores
from bench.targets import Result


@dataclass(frozen=True)
class Told:
    """What the campaign does with what is found here."""

    measure: Callable[[Server, Scenario], Result]
    keep: Callable[[Scenario, Server, int, Result], None]
    failed: Callable[[str], None]
    took: Callable[[Sequence[tuple[str, int]], float], None]
    say: Callable[[str], None]


class Keeping:
    """All scenarios with archives of one run."""

    def __init__(
        self,
        stage: Stage,
        plan: Plan,
        progress: Progress,
        told: Told,
        kinds: Sequence[type[Server]],
        stores: Stores,
    ) -> None:
        """`kinds`: the servers of the run; those that have no archive here are left out."""
        self._stage = stage
        self._plan = plan
        self._progress = progress
        self._told = told
        self._kinds = kinds
        self._stores = stores

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """One backend after the other."""
        backends: tuple[Backend, ...] = ("sqlite", "cassandra")
        for backend in backends:
            chosen = [one for one in scenarios if one.backend == backend]
            if not chosen:
                continue
            try:
                with self._database(backend) as database:
                    AntiphonCassandra.ring = database
                    self._run(backend, chosen)
            except ServerError as err:
                self._told.failed(f"{backend}: {err}")
            finally:
                AntiphonCassandra.ring = None

    def _database(self, backend: Backend) -> AbstractContextManager[Database | None]:
        if backend != "cassandra":
            return nullcontext()
        return Database(1 if self._stage.is_pinned else None)

    def _run(self, backend: Backend, scenarios: Sequence[Scenario]) -> None:
        filled = [one for one in scenarios if one.kind in ("filled", "disk")]
        if filled and backend == "cassandra":
            # First: a Java machine that has just begun compiles more than it works.
            self._filled(backend, filled)
        fresh = [one for one in scenarios if one.kind == "archive"]
        # What leaves most behind comes last: the others begin with an archive that is nearly empty.
        fresh.sort(key=lambda one: one.name.startswith("msg-archive"))
        for repetition in range(self._plan.repetitions):
            wanted = [one for one in fresh if self._progress.may(one.name, repetition)]
            if wanted:
                self._fresh(backend, wanted, repetition)
        if filled and backend != "cassandra":
            self._filled(backend, filled)

    def _servers(self, backend: Backend, scenario: Scenario, turn: int) -> list[type[Server]]:
        """Ours by the backend, and the rivals where the scenario is theirs too."""
        found: list[type[Server]] = []
        for kind in self._kinds:
            if kind is Antiphon:
                found.append(AntiphonCassandra if backend == "cassandra" else AntiphonArchive)
                found += [AntiphonUnkept] * scenario.with_unkept
            elif (
                scenario.with_rivals
                and kind.name in ARCHIVES
                and (not kind.is_default or turn < self._plan.default_repetitions)
            ):
                found.append(ARCHIVES[kind.name])
        return found

    def _fresh(self, backend: Backend, scenarios: Sequence[Scenario], turn: int) -> None:
        """An archive that grows costs more and more: each repetition begins with none."""
        told, begun = self._told, self._progress.elapsed_s
        wanted = {one.name: self._servers(backend, one, turn) for one in scenarios}
        kinds = list(dict.fromkeys(kind for each in wanted.values() for kind in each))
        told.say(f"bench: new servers with archives, {backend} ({self._progress})")
        with ThreadPoolExecutor(max(1, len(kinds))) as pool:
            started = dict(zip(kinds, pool.map(self._started, kinds), strict=True))
        try:
            for scenario in scenarios:
                told.say(f"bench: {scenario.title} ({self._progress})")
                for kind in wanted[scenario.name]:
                    if (server := started[kind]) is not None:
                        self._measured(server, scenario, turn)
                told.took([(scenario.name, turn)], begun)
                begun = self._progress.elapsed_s
        finally:
            stop_all([server for server in started.values() if server is not None])

    def _started(self, kind: type[Server]) -> Server | None:
        try:
            server = self._stage.server(kind)
            server.start(Accounts(LONELY))
        except ServerError as err:
            self._told.failed(f"archives, {kind.name}: {err}")
            return None
        return server

    def _measured(self, server: Server, scenario: Scenario, turn: int) -> None:
        try:
            result = self._told.measure(server, scenario)
        except ServerError as err:
            self._told.failed(f"{scenario.name}, {server.name}: {err}")
        else:
            self._told.keep(scenario, server, turn, result)

    def _filled(self, backend: Backend, scenarios: Sequence[Scenario]) -> None:
        """One store for all of them, filled before the node starts."""
        if Antiphon not in self._kinds:
            return
        told, messages, begun = self._told, self._plan.messages, self._progress.elapsed_s
        told.say(f"bench: {messages:,} messages in {backend} ({self._progress})")
        server = self._stage.server(
            AntiphonCassandra if backend == "cassandra" else AntiphonArchive
        )
        assert isinstance(server, AntiphonArchive)
        server.prepare_folder(Accounts(USERS))
        filled = self._stores.put(server, messages)
        told.say(f"  filled in {filled['seconds']:.0f} s, {filled['cpu_s']:.0f} s of CPU")
        each = filled.get("grown_bytes", 0) / messages
        disks = [one for one in scenarios if one.kind == "disk"]
        for scenario in disks:
            told.keep(scenario, server, 0, {"count": messages, "bytes_each": each})
        server.launch()
        try:
            told.took([(scenario.name, 0) for scenario in disks], begun)
            for scenario in scenarios:
                if scenario.kind == "filled":
                    self._questions(server, scenario)
        finally:
            server.stop()

    def _questions(self, server: Server, scenario: Scenario) -> None:
        """All repetitions of one load on a filled store."""
        self._told.say(f"bench: {scenario.title} ({self._progress})")
        for turn in range(self._plan.repetitions):
            if self._progress.may(scenario.name, turn):
                begun = self._progress.elapsed_s
                self._measured(server, scenario, turn)
                self._told.took([(scenario.name, turn)], begun)
