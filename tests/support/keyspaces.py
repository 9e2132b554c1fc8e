# SPDX-License-Identifier: Apache-2.0
"""A Cassandra for nodes under test: each has a keyspace of its own, which goes at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from antiphon.config.stored import Cassandra
from antiphon.storage.cassandra.connect import CassandraFailure, connected

from .cassandra import unique_keyspace


class Keyspaces:
    """Names for the keyspaces of one run; the nodes make them by `antiphon migrate`."""

    def __init__(self, contact_points: Sequence[str]) -> None:
        self.contact_points = tuple(contact_points)
        self._names: list[str] = []

    def new(self) -> str:
        """A name that nobody has."""
        self._names.append(unique_keyspace("wire"))
        return self._names[-1]

    def drop(self) -> None:
        """Removes those that were made."""
        # One that is away takes them with it.
        with (
            suppress(CassandraFailure),
            connected(Cassandra(contact_points=self.contact_points)) as connection,
        ):
            for name in self._names:
                connection.change_schema(f"DROP KEYSPACE IF EXISTS {name}")
        self._names.clear()
