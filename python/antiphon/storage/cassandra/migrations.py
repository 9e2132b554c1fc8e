# SPDX-License-Identifier: Apache-2.0
"""Numbered changes of the schema: each applied once, in order, by one at a time."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

from antiphon.config.stored import Cassandra
from antiphon.storage.cassandra.connect import CassandraFailure, Connection

SCOPE = "antiphon"
_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.cql$")
_READERS = re.compile(r"^-- readers: (\d+)$", re.MULTILINE)
_LOCK_S = 120
"""A lock of a process that died ends by itself after it; longer than any statement takes."""
_LOCK_WAIT_S = 300.0
_COPIES = 3

Tell = Callable[[str], None]
"""Is told what is done, one line at a time."""


@dataclass(frozen=True)
class Migration:
    """One file."""

    version: int
    name: str
    readers: int
    """The lowest version whose nodes can work with the schema behind it."""
    statements: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """Where a keyspace stands."""

    is_there: bool
    """The keyspace."""
    version: int
    """The newest migration in it; 0 for none."""
    readers: int
    known: int
    """The newest migration of this program."""

    @property
    def fault(self) -> str | None:
        """Why a node of this version cannot work with it; None: it can."""
        if self.version < self.known:
            behind = f"has schema version {self.version} and this antiphon needs {self.known}"
            return f"{behind if self.is_there else 'does not exist'}: run `antiphon migrate`"
        if self.readers > self.known:
            return (
                f"has schema version {self.version}, which needs an antiphon that knows "
                f"{self.readers}; this one knows {self.known}: start the newer antiphon"
            )
        return None


def migrations() -> tuple[Migration, ...]:
    """All of them, in their order."""
    found = []
    for file in resources.files(__package__).iterdir():
        named = _NAME.match(file.name)
        if named is not None:
            found.append(parse(int(named[1]), named[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda one: one.version)
    return tuple(found)


def parse(version: int, name: str, text: str) -> Migration:
    """A migration from its file: statements end with a semicolon at the end of a line."""
    readers = _READERS.search(text)
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    parts = "\n".join(lines).split(";\n")
    statements = tuple(part.strip().removesuffix(";") for part in parts if part.strip())
    return Migration(version, name, int(readers[1]) if readers else version, statements)


def status(connection: Connection, keyspace: str) -> Status:
    """Where the keyspace stands. Raises CassandraFailure."""
    tables = connection.rows(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (keyspace,)
    )
    is_there = _is_there(connection, keyspace)
    applied: list[tuple[int, int]] = []
    if ("schema_version",) in tables:
        rows = connection.rows(
            f'SELECT version, readers FROM "{keyspace}".schema_version WHERE scope = %s',  # noqa: S608
            (SCOPE,),
        )
        applied = [(int(str(version)), int(str(readers))) for version, readers in rows]
    return Status(
        is_there=is_there,
        version=max((version for version, _ in applied), default=0),
        readers=max((readers for _, readers in applied), default=0),
        known=migrations()[-1].version,
    )


def plan(connection: Connection, options: Cassandra) -> list[str]:
    """Every statement that `migrate` would run, in order. Raises CassandraFailure."""
    found = status(connection, options.keyspace)
    made = [] if found.is_there else [create_keyspace(connection, options)]
    return made + [text for one in _missing(found) for text in one.statements]


def migrate(connection: Connection, options: Cassandra, tell: Tell) -> Status:
    """Makes the keyspace if there is none and brings its schema up to date.

    Safe to repeat, whenever it broke off, and when two run at once: the second waits for the
    first. Nodes may run meanwhile. Raises CassandraFailure.
    """
    keyspace = options.keyspace
    if not _is_there(connection, keyspace):
        connection.change_schema(create_keyspace(connection, options))
        tell(f"made the keyspace {keyspace}")
    connection.use(keyspace)
    for table in (_version_table(keyspace), _lock_table(keyspace)):
        connection.change_schema(table)
    with _locked(connection, tell) as renew:
        for one in _missing(status(connection, keyspace)):
            for statement in one.statements:
                renew()
                connection.change_schema(statement)
            renew()
            connection.write(
                "INSERT INTO schema_version (scope, version, name, readers, applied_ms) "
                "VALUES (%s, %s, %s, %s, %s)",
                (SCOPE, one.version, one.name, one.readers, int(time.time() * 1000)),
            )
            tell(f"applied {one.version:04} {one.name}")
    return status(connection, keyspace)


def create_keyspace(connection: Connection, options: Cassandra) -> str:
    """The statement that makes the keyspace, with the replication of the configuration."""
    nodes = connection.nodes()
    copies = {name: min(_COPIES, count) for name, count in nodes.items()}
    if options.replication:
        given = (one.rpartition(":") for one in options.replication)
        copies = {name: int(count) for name, _, count in given}
    for name, count in copies.items():
        if name not in nodes:
            there = ", ".join(nodes)
            raise CassandraFailure(
                f"storage.cassandra.replication names the data centre {name}; there is {there}"
            )
        if count > nodes[name]:
            raise CassandraFailure(
                f"storage.cassandra.replication wants {count} copies in {name}, which has "
                f"{nodes[name]} nodes"
            )
    listed = "".join(f", '{name.replace(chr(39), chr(39) * 2)}': {n}" for name, n in copies.items())
    return (
        f'CREATE KEYSPACE IF NOT EXISTS "{options.keyspace}" WITH replication = '
        f"{{'class': 'NetworkTopologyStrategy'{listed}}} AND durable_writes = true"
    )


def _is_there(connection: Connection, keyspace: str) -> bool:
    return bool(
        connection.rows(
            "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s",
            (keyspace,),
        )
    )


def _missing(found: Status) -> Iterator[Migration]:
    return (one for one in migrations() if one.version > found.version)


def _table_id(keyspace: str, table: str) -> uuid.UUID:
    """The same whoever makes the table, so that two who make it at once make the same one."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"antiphon {keyspace} {table}")


def _version_table(keyspace: str) -> str:
    return (
        "CREATE TABLE IF NOT EXISTS schema_version (scope text, version int, name text, "
        "readers int, applied_ms bigint, PRIMARY KEY ((scope), version)) "
        f"WITH id = {_table_id(keyspace, 'schema_version')}"
    )


def _lock_table(keyspace: str) -> str:
    return (
        "CREATE TABLE IF NOT EXISTS migration_lock (scope text PRIMARY KEY, holder uuid, "
        f"place text) WITH id = {_table_id(keyspace, 'migration_lock')}"
    )


@contextmanager
def _locked(connection: Connection, tell: Tell) -> Iterator[Callable[[], None]]:
    """Only one process at a time is inside; gives what keeps it so."""
    holder, place = uuid.uuid4(), f"process {os.getpid()} on {socket.gethostname()}"
    until, has_told = time.monotonic() + _LOCK_WAIT_S, False
    while not connection.condition(
        "INSERT INTO migration_lock (scope, holder, place) VALUES (%s, %s, %s) IF NOT EXISTS "
        "USING TTL %s",
        (SCOPE, holder, place, _LOCK_S),
    ):
        rows = connection.rows(
            "SELECT holder, place FROM migration_lock WHERE scope = %s", (SCOPE,)
        )
        if rows and rows[0][0] == holder:
            break  # ours, although the answer to an attempt was lost
        other = rows[0][1] if rows else "another process"
        if time.monotonic() > until:
            raise CassandraFailure(f"{other} migrates this keyspace; try again when it is done")
        if not has_told:
            tell(f"waiting: {other} migrates this keyspace")
            has_told = True
        time.sleep(1)

    def renew() -> None:
        if not connection.condition(
            "UPDATE migration_lock USING TTL %s SET holder = %s, place = %s "
            "WHERE scope = %s IF holder = %s",
            (_LOCK_S, holder, place, SCOPE, holder),
        ):
            raise CassandraFailure("another process took the lock over; run it again")

    try:
        yield renew
    finally:
        connection.condition(
            "DELETE FROM migration_lock WHERE scope = %s IF holder = %s", (SCOPE, holder)
        )
