# SPDX-License-Identifier: Apache-2.0
"""Measures servers with archives: a new one each time, or one that was filled before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from bench.accounts import Accounts
from bench.archives import ARCHIVES, USERS, AntiphonArchive, AntiphonCassandra
from bench.database import Database
from bench.ours import Antiphon
from bench.scenarios import LONELY, Backend, Scenario
from bench.server import Server, ServerError
from bench.stage import Stage
from bench.targets import Result


@dataclass(frozen=True)
class Told:
    """What the campaign does with what is found here."""

    measure: Callable[[Server, Scenario], Result]
    keep: Callable[[Scenario, Server, int, Result], None]
    failed: Callable[[str], None]
    say: Callable[[str], None]


class Keeping:
    """All scenarios with archives of one run."""

    def __init__(self, stage: Stage, told: Told, kinds: Sequence[type[Server]]) -> None:
        """`kinds`: the servers of the run; those that have no archive here are left out."""
        self._stage = stage
        self._told = told
        self._kinds = kinds

    def run(self, scenarios: Sequence[Scenario], repetitions: int, messages: int) -> None:
        """One backend after the other; `messages` is what a store is filled with."""
        backends: tuple[Backend, ...] = ("none", "sqlite", "cassandra")
        for backend in backends:
            chosen = [one for one in scenarios if one.backend == backend]
            if not chosen:
                continue
            try:
                with self._database(backend) as database:
                    AntiphonCassandra.ring = database
                    self._run(backend, chosen, repetitions, messages)
            except ServerError as err:
                self._told.failed(f"{backend}: {err}")
            finally:
                AntiphonCassandra.ring = None

    def _database(self, backend: Backend) -> AbstractContextManager[Database | None]:
        if backend != "cassandra":
            return nullcontext()
        return Database(1 if self._stage.is_pinned else None)

    def _run(
        self, backend: Backend, scenarios: Sequence[Scenario], repetitions: int, messages: int
    ) -> None:
        for scenario in scenarios:
            if scenario.kind != "archive":
                continue
            self._told.say(f"bench: {scenario.title}")
            for repetition in range(repetitions):
                for kind in self._servers(backend, scenario):
                    self._fresh(kind, scenario, repetition)
        if filled := [one for one in scenarios if one.kind in ("filled", "disk")]:
            self._filled(backend, filled, repetitions, messages)

    def _servers(self, backend: Backend, scenario: Scenario) -> list[type[Server]]:
        """Ours by the backend, and the rivals where the scenario is theirs too."""
        ours = {"none": Antiphon, "sqlite": AntiphonArchive, "cassandra": AntiphonCassandra}
        found: list[type[Server]] = []
        for kind in self._kinds:
            if kind is Antiphon:
                found.append(ours[backend])
            elif scenario.with_rivals and not kind.is_default and kind.name in ARCHIVES:
                found.append(ARCHIVES[kind.name])
        return found

    def _fresh(self, kind: type[Server], scenario: Scenario, repetition: int) -> None:
        """An archive that grows costs more and more: each repetition begins with none."""
        try:
            server = self._stage.server(kind)
            server.start(Accounts(LONELY))
            try:
                result = self._told.measure(server, scenario)
            finally:
                server.stop()
        except ServerError as err:
            self._told.failed(f"{scenario.name}, {kind.name}: {err}")
            return
        self._told.keep(scenario, server, repetition, result)

    def _filled(
        self, backend: Backend, scenarios: Sequence[Scenario], repetitions: int, messages: int
    ) -> None:
        """One store for all of them, filled before the node starts."""
        if Antiphon not in self._kinds:
            return
        self._told.say(f"bench: {messages:,} messages into {backend}")
        server = self._stage.server(
            AntiphonCassandra if backend == "cassandra" else AntiphonArchive
        )
        assert isinstance(server, AntiphonArchive)
        server.prepare_folder(Accounts(USERS))
        before = server.size_bytes()
        filled = server.fill(str(self._stage.fill), str(self._stage.words), messages)
        grown = server.size_bytes() - before
        self._told.say(f"  in {filled['seconds']:.0f} s, {filled['cpu_s']:.0f} s of CPU")
        for scenario in scenarios:
            if scenario.kind == "disk":
                self._told.keep(
                    scenario, server, 0, {"count": messages, "bytes_each": grown / messages}
                )
        server.launch()
        try:
            for scenario in scenarios:
                if scenario.kind != "filled":
                    continue
                self._told.say(f"bench: {scenario.title}")
                for repetition in range(repetitions):
                    result = self._told.measure(server, scenario)
                    self._told.keep(scenario, server, repetition, result)
        finally:
            server.stop()
