# SPDX-License-Identifier: Apache-2.0
"""A real Apache Cassandra for the tests, one node or a ring; see README.md."""

from .install import VERSIONS, CassandraFailed, CassandraMissing
from .ring import Cassandra, unique_keyspace
from .settings import Secured, Settings

__all__ = [
    "VERSIONS",
    "Cassandra",
    "CassandraFailed",
    "CassandraMissing",
    "Secured",
    "Settings",
    "unique_keyspace",
]
