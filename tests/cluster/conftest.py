# SPDX-License-Identifier: Apache-2.0
"""A whole cluster for the tests of this folder, made once and healed before each."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cluster.support.network import Loopback, Namespaces, Network, why_not
from cluster.support.site import Site, Unsettled
from support.cassandra import Cassandra, Settings
from support.client import LIVE
from support.server import ServerFailed


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The later rounds of `make chaos` have only the tests that repeat something."""
    if os.environ.get("CHAOS_AGAIN"):
        kept = [one for one in items if hasattr(getattr(one, "module", None), "repetitions")]
        config.hook.pytest_deselected(items=[one for one in items if one not in kept])
        items[:] = kept


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Namespaces where they can be, else loopback."""
    made: Network = Loopback() if why_not() else Namespaces()
    yield made
    made.close()


@pytest.fixture(scope="session")
def cluster_cassandra(network: Network) -> Iterator[Cassandra]:
    """One Cassandra that every place reaches; to be frozen, not killed."""
    with Cassandra(Settings(address=network.outside, volatile=True, heap_mb=768)) as made:
        yield made


class Sites:
    """The cluster that tests share, replaced where a test has left it beyond healing."""

    def __init__(self, network: Network, ring: Cassandra) -> None:
        self._network, self._ring = network, ring
        self._site: Site | None = None

    def whole(self) -> Site:
        """The cluster, healed. Fails the test with the log where it does not start."""
        self._ring.resume()
        if self._site is not None:
            try:
                self._site.heal()
            except (Unsettled, ServerFailed) as error:
                print(f"the cluster of the last test does not heal: {error}")
                self.close()
            else:
                return self._site
        return self._new()

    def _new(self) -> Site:
        self._site = Site(self._network, self._ring, tells_writes=True)
        try:
            self._site.start()
        except (Unsettled, ServerFailed) as error:
            self.close()
            pytest.fail(str(error), pytrace=False)
        return self._site

    def close(self) -> None:
        """Ends it."""
        if self._site is not None:
            self._site.close()
            self._site = None


@pytest.fixture(scope="session")
def sites(network: Network, cluster_cassandra: Cassandra) -> Iterator[Sites]:
    """The clusters of this run."""
    made = Sites(network, cluster_cassandra)
    yield made
    made.close()


@pytest.fixture
def site(sites: Sites) -> Site:
    """Three nodes that run, agree, and serve every shard."""
    LIVE.clear()
    return sites.whole()


@pytest.fixture
def cuts(network: Network) -> Network:
    """The wires, which this test cuts; fails it where they cannot be cut."""
    if not network.is_cuttable:
        pytest.fail(why_not(), pytrace=False)
    return network
