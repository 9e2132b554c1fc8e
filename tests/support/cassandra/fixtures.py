# SPDX-License-Identifier: Apache-2.0
"""Fixtures that give tests a real Cassandra; each is started when the first test asks for it.

They skip, with the reason, where `make deps` could not bring Cassandra or a Java for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .install import VERSIONS, CassandraFailed, CassandraMissing
from .ring import Cassandra
from .settings import Settings

BREAKABLE = Settings(sync="batch")
RING = Settings(nodes=3, heap_mb=384)
each_version = pytest.mark.parametrize("any_cassandra", list(VERSIONS), indirect=True)
"""Runs a test that takes `any_cassandra` on each series."""


class Cassandras:
    """The rings of a session, by their settings. All end with it."""

    def __init__(self) -> None:
        self._running: dict[Settings, Cassandra | CassandraFailed] = {}

    def __call__(self, settings: Settings) -> Cassandra:
        """One with these settings, shared by all that ask for the same; started if need be.

        One that did not start is not tried again: the test fails with the log of the first time.
        """
        found = self._running.get(settings)
        if found is None:
            found = self._started(settings)
            self._running[settings] = found
        if isinstance(found, CassandraFailed):
            pytest.fail(str(found), pytrace=False)
        return found

    @staticmethod
    def _started(settings: Settings) -> Cassandra | CassandraFailed:
        try:
            ring = Cassandra(settings)
        except CassandraMissing as error:
            pytest.skip(str(error))
        try:
            return ring.start()
        except CassandraFailed as error:
            ring.close()
            return error

    def lend(self, settings: Settings) -> Iterator[Cassandra]:
        """One that the test may break: made whole again afterwards, for the next."""
        ring = self(settings)
        yield ring
        ring.heal()

    def close(self) -> None:
        """Ends all and removes their data."""
        for ring in self._running.values():
            if isinstance(ring, Cassandra):
                ring.close()


@pytest.fixture(scope="session")
def cassandras() -> Iterator[Cassandras]:
    """Every Cassandra of this run."""
    made = Cassandras()
    yield made
    made.close()


@pytest.fixture(scope="session")
def cassandra(cassandras: Cassandras) -> Cassandra:
    """One node of 5.0 that all tests share: take a keyspace of your own, break nothing."""
    return cassandras(Settings(volatile=True))


@pytest.fixture(scope="session")
def cassandra41(cassandras: Cassandras) -> Cassandra:
    """The same of 4.1."""
    return cassandras(Settings(version="4.1", volatile=True))


@pytest.fixture
def any_cassandra(request: pytest.FixtureRequest, cassandras: Cassandras) -> Cassandra:
    """The shared node of the series that `each_version` gives."""
    return cassandras(Settings(version=request.param, volatile=True))


@pytest.fixture
def breakable_cassandra(cassandras: Cassandras) -> Iterator[Cassandra]:
    """One node of 5.0 to kill, freeze and restart; the next test finds it whole.

    It acknowledges what is on the disk, so that a kill loses nothing.
    """
    yield from cassandras.lend(BREAKABLE)


@pytest.fixture
def cassandra_ring(cassandras: Cassandras) -> Iterator[Cassandra]:
    """Three nodes of 5.0 to kill, freeze and restart; the next test finds the ring whole.

    As most are run: a killed node may lose its last writes, and two others have them.
    """
    yield from cassandras.lend(RING)
