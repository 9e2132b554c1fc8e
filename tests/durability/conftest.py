# SPDX-License-Identifier: Apache-2.0
"""Nodes to kill, on the store that `--store` names."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from durability.node import Mortal
from support.cassandra import Cassandra
from support.keyspaces import Keyspaces


@pytest.fixture
def mortal(request: pytest.FixtureRequest) -> Iterator[Mortal]:
    """A running node of its own."""
    node = Mortal.make()
    keyspaces = None
    if str(request.config.getoption("--store")) != "sqlite":
        ring: Cassandra = request.getfixturevalue("breakable_cassandra")
        keyspaces = Keyspaces(ring.contact_points)
        node.contact_points = keyspaces.contact_points
        node.keyspace = keyspaces.new()
    try:
        node.start()
        yield node
    finally:
        node.remove()
        if keyspaces is not None:
            keyspaces.drop()


@pytest.fixture
def dice() -> random.Random:
    """Random moments; the seed is in the report of a failed test."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    return random.Random(seed)
