# SPDX-License-Identifier: Apache-2.0
"""Reads archives from Cassandra with its own driver, without a line of the server's code.

The schema is that of python/antiphon/storage/cassandra/0002_archives.cql.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cassandra.cluster import Cluster, Session
from cassandra.query import tuple_factory

from .ledger import Row
from .sqlite_reader import OUT, body_of, number_of

BUCKETS = "SELECT bucket FROM archive_bucket WHERE owner = %s"
ROWS = (
    "SELECT id, peer, flags, stanza FROM archive WHERE owner = %s AND bucket = %s ORDER BY id ASC"
)
WAITING = "SELECT id FROM offline WHERE owner = %s"
TIMEOUT_S = 60.0


@contextmanager
def _session(contact_points: Sequence[str], keyspace: str) -> Iterator[Session]:
    addresses = [point.rpartition(":")[0] for point in contact_points]
    port = int(contact_points[0].rpartition(":")[2])
    with Cluster(addresses, port=port, protocol_version=4) as cluster:
        session = cluster.connect(keyspace)
        session.row_factory = tuple_factory
        yield session


def waiting(
    contact_points: Sequence[str], keyspace: str, owners: Sequence[str]
) -> dict[str, list[int]]:
    """Offline messages that wait, by the bare JIDs of those who have some."""
    with _session(contact_points, keyspace) as session:
        found = {
            owner: [id_ for (id_,) in session.execute(WAITING, (owner,), timeout=TIMEOUT_S)]
            for owner in owners
        }
    return {owner: ids for owner, ids in found.items() if ids}


def archives(
    contact_points: Sequence[str], keyspace: str, owners: Sequence[str]
) -> dict[int, list[Row]]:
    """The archives of these bare JIDs, oldest first; messages without body are left out."""
    with _session(contact_points, keyspace) as session:
        found: dict[int, list[Row]] = {}
        for owner in owners:
            rows = found.setdefault(number_of(owner), [])
            buckets = sorted(b for (b,) in session.execute(BUCKETS, (owner,), timeout=TIMEOUT_S))
            for bucket in buckets:
                page = session.execute(ROWS, (owner, bucket), timeout=TIMEOUT_S)
                for id_, peer, flags, stanza in page:
                    text = body_of(stanza)
                    if text is not None:
                        rows.append(Row(str(id_), number_of(peer), bool(flags & OUT), text))
        return found
