# SPDX-License-Identifier: Apache-2.0
"""The support itself: what is written comes back after a kill, and a ring outlives a node."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest
from cassandra import ConsistencyLevel, OperationTimedOut
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.policies import ConstantReconnectionPolicy, RoundRobinPolicy

from support.cassandra import Cassandra, CassandraFailed, Secured, Settings, unique_keyspace
from support.cassandra.fixtures import BREAKABLE, Cassandras, each_version
from support.cassandra.install import ROOT
from support.certs import Authority

EVERY = [f"letter {number}" for number in range(200)]


@dataclass
class Letters:
    """A driver's session and a table of its own."""

    session: Session
    table: str

    def write(self, owner: str) -> None:
        """Writes all, one after another."""
        insert = f"INSERT INTO {self.table} (owner, id, body) VALUES (?, ?, ?)"
        statement = self.session.prepare(insert)
        for number, body in enumerate(EVERY):
            self.session.execute(statement, (owner, number, body))

    def read(self, owner: str, level: int = ConsistencyLevel.QUORUM) -> list[str]:
        """What is there now."""
        statement = self.session.prepare(f"SELECT body FROM {self.table} WHERE owner = ?")
        statement.consistency_level = level
        return [row.body for row in self.session.execute(statement, (owner,))]


@contextmanager
def connected(ring: Cassandra, **options: object) -> Iterator[Letters]:
    """An empty table, on every node of the ring."""
    profile = ExecutionProfile(
        RoundRobinPolicy(), consistency_level=ConsistencyLevel.QUORUM, request_timeout=20
    )
    cluster = Cluster(
        ring.addresses,
        port=ring.port,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ConstantReconnectionPolicy(0.5, None),
        protocol_version=5,
        connect_timeout=20,
        **options,
    )
    try:
        session = cluster.connect()
        keyspace = unique_keyspace()
        session.execute(
            f"CREATE KEYSPACE {keyspace} WITH replication = "
            f"{{'class': 'SimpleStrategy', 'replication_factor': {len(ring.nodes)}}}"
        )
        letters = Letters(session, f"{keyspace}.letters")
        session.execute(
            f"CREATE TABLE {letters.table} (owner text, id int, body text, PRIMARY KEY (owner, id))"
        )
        yield letters
    finally:
        cluster.shutdown()


@each_version
def test_a_node_of_each_series_keeps_what_is_written(any_cassandra: Cassandra) -> None:
    with connected(any_cassandra) as letters:
        letters.write("romeo")
        assert letters.read("romeo") == EVERY
        version = letters.session.execute("SELECT release_version FROM system.local").one()
        assert version.release_version.startswith(any_cassandra.settings.version)


def test_equal_settings_share_a_node(cassandras: Cassandras, cassandra: Cassandra) -> None:
    assert cassandras(Settings(volatile=True)) is cassandra


def test_a_volatile_node_refuses_to_be_killed(cassandra: Cassandra) -> None:
    with pytest.raises(ValueError, match="volatile"):
        cassandra.kill()


def test_what_was_acknowledged_is_there_after_a_kill(breakable_cassandra: Cassandra) -> None:
    with connected(breakable_cassandra) as letters:
        letters.write("romeo")
        breakable_cassandra.kill()
        with pytest.raises((NoHostAvailable, OperationTimedOut)):
            letters.session.execute("SELECT release_version FROM system.local", timeout=2)
        breakable_cassandra.restart()
        for _ in range(100):  # the driver comes back by itself, half a second later
            try:
                found = letters.read("romeo")
                break
            except NoHostAvailable:
                sleep(0.1)
        else:
            pytest.fail("the driver did not come back")
        assert found == EVERY


def test_a_frozen_node_answers_nothing_until_it_goes_on(breakable_cassandra: Cassandra) -> None:
    node = breakable_cassandra.node(1)
    with connected(breakable_cassandra) as letters:
        breakable_cassandra.pause()
        assert node.pid is not None
        with pytest.raises(OperationTimedOut):
            letters.session.execute("SELECT release_version FROM system.local", timeout=1)
        breakable_cassandra.resume()
        node.wait(timeout_s=30)
        letters.write("juliet")
        assert letters.read("juliet") == EVERY


def test_a_node_left_frozen_or_dead_is_whole_for_the_next_test(cassandras: Cassandras) -> None:
    lent = cassandras.lend(BREAKABLE)
    ring = next(lent)
    ring.pause()
    with pytest.raises(StopIteration):
        next(lent)
    assert ring.node(1).answers()


@pytest.mark.slow
def test_a_ring_of_three_outlives_one_of_them(cassandra_ring: Cassandra) -> None:
    with connected(cassandra_ring) as letters:
        cassandra_ring.kill(3)
        letters.write("romeo")
        assert letters.read("romeo") == EVERY
        cassandra_ring.restart(3)
        assert all(node.sees_all() for node in cassandra_ring.nodes)
        assert letters.read("romeo", ConsistencyLevel.ALL) == EVERY


@pytest.mark.slow
def test_a_secured_node_wants_tls_and_a_password(
    authority: Authority, tmp_path: Path, cassandras: Cassandras
) -> None:
    pair = authority.server("cassandra.example", "127.0.0.1")
    secured = Secured(pair.certificate, pair.key, authority.ca)
    ring = cassandras(Settings(secured=secured))
    context = ssl.create_default_context(cafile=authority.ca)
    context.check_hostname = False  # the driver passes no name
    login = PlainTextAuthProvider("cassandra", "cassandra")
    with connected(ring, ssl_context=context, auth_provider=login) as letters:
        letters.write("nurse")
        assert letters.read("nurse") == EVERY
    wrong = PlainTextAuthProvider("cassandra", "wrong")
    refused: tuple[dict[str, object], ...] = (
        {"ssl_context": context},
        {"ssl_context": context, "auth_provider": wrong},
        {},
    )
    for options in refused:
        with pytest.raises(NoHostAvailable), connected(ring, **options):
            pass


def test_a_node_that_ends_at_start_shows_its_log(tmp_path: Path, cassandra: Cassandra) -> None:
    ring = Cassandra(Settings(java=("-XX:NoSuchOption",)))
    try:
        with pytest.raises(CassandraFailed, match="NoSuchOption"):
            ring.start()
    finally:
        ring.close()
    assert not ring.folder.exists()


def test_a_taken_port_is_named(cassandra: Cassandra) -> None:
    with pytest.raises(CassandraFailed, match=f"port {cassandra.port} is taken"):
        Cassandra(Settings(port=cassandra.port))


@pytest.mark.slow
def test_the_command_line_runs_a_ring_for_another_program(cassandra: Cassandra) -> None:
    command = [sys.executable, "-m", "support.cassandra"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    start = [*command, "start", "--until-eof", "--volatile"]
    with subprocess.Popen(
        start, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        ready, points, folder = program.stdout.readline().split()
        assert (ready, points.partition(":")[0]) == ("ready", "127.0.0.1")
        node = Cassandra.load(Path(folder)).node(1)
        assert node.contact_point == points
        assert node.answers()
        asked = subprocess.run([*command, "status", folder], env=env, check=False)
        assert asked.returncode == 0
        program.stdin.close()
        assert program.wait(30) == 0
    assert node.pid is None
    assert not Path(folder).exists()
