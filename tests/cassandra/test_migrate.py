# SPDX-License-Identifier: Apache-2.0
"""`antiphon migrate` and `antiphon check` on a real Cassandra."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from antiphon.config.stored import Cassandra as Options
from antiphon.storage.cassandra import migrations
from antiphon.storage.cassandra.connect import connected
from support.antiphon import executable
from support.cassandra import Cassandra, unique_keyspace
from support.cassandra.fixtures import each_version


class Keyspace:
    """A keyspace that was not made yet, and a configuration that names it."""

    def __init__(self, ring: Cassandra, folder: Path) -> None:
        self.options = Options(
            contact_points=tuple(ring.contact_points), keyspace=unique_keyspace("migrate")
        )
        self.file = folder / "antiphon.toml"
        self.write()

    def write(self, **more: object) -> None:
        """Writes the configuration with more keys of `[storage.cassandra]`."""
        keys = {
            "contact_points": list(self.options.contact_points),
            "keyspace": self.options.keyspace,
            **more,
        }
        listed = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        self.file.write_text(
            f'data_dir = "data"\n[archive]\nenabled = false\n[storage]\nbackend = "cassandra"\n[storage.cassandra]\n{listed}\n'
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`antiphon …`"""
        return subprocess.run(
            [str(executable()), *arguments, "--config", str(self.file)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def tables(self) -> set[str]:
        """What the driver finds in it."""
        with connected(self.options) as connection:
            rows = connection.rows(
                "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
                (self.options.keyspace,),
            )
        return {str(row[0]) for row in rows}

    def drop(self) -> None:
        """Removes it."""
        with connected(self.options) as connection:
            connection.change_schema(f"DROP KEYSPACE IF EXISTS {self.options.keyspace}")


@pytest.fixture
def keyspace(cassandra: Cassandra, tmp_path: Path) -> Iterator[Keyspace]:
    made = Keyspace(cassandra, tmp_path)
    yield made
    made.drop()


@each_version
def test_a_keyspace_is_made_and_stays_as_it_is_the_second_time(
    any_cassandra: Cassandra, tmp_path: Path
) -> None:
    keyspace = Keyspace(any_cassandra, tmp_path)
    try:
        assert keyspace.run("migrate", "--status").returncode == 1
        first = keyspace.run("migrate")
        assert (first.returncode, first.stderr) == (0, "")
        assert "applied 0001 accounts" in first.stdout
        assert {"entity", "account_index", "offline", "entity_map"} <= keyspace.tables()
        second = keyspace.run("migrate", "--json")
        found = json.loads(second.stdout)
        assert found["version"] == found["known"]
        assert found["fault"] is None
        assert keyspace.run("migrate", "--status").returncode == 0
    finally:
        keyspace.drop()


def test_a_dry_run_changes_nothing(keyspace: Keyspace) -> None:
    done = keyspace.run("migrate", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith("CREATE KEYSPACE")
    assert "CREATE TABLE IF NOT EXISTS entity (" in done.stdout
    assert keyspace.tables() == set()


def test_several_at_once_apply_each_migration_once(keyspace: Keyspace) -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: keyspace.run("migrate"), range(3)))
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    applied = [line for run in runs for line in run.stdout.splitlines() if "applied" in line]
    assert len(applied) == len(migrations.migrations())


def test_a_keyspace_is_used_as_soon_as_another_is_seen_to_make_it(keyspace: Keyspace) -> None:
    name = keyspace.options.keyspace
    with connected(keyspace.options) as maker, connected(keyspace.options) as user:

        def use() -> None:
            while (name,) not in user.rows("SELECT keyspace_name FROM system_schema.keyspaces"):
                pass
            user.use(name)

        with ThreadPoolExecutor(1) as pool:
            used = pool.submit(use)
            maker.change_schema(migrations.create_keyspace(maker, keyspace.options))
            used.result()


def test_several_at_once_on_several_nodes(cassandra_ring: Cassandra, tmp_path: Path) -> None:
    keyspace = Keyspace(cassandra_ring, tmp_path)
    try:
        with ThreadPoolExecutor(3) as pool:
            runs = list(pool.map(lambda _: keyspace.run("migrate"), range(3)))
        assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    finally:
        keyspace.drop()


def test_what_broke_off_is_gone_on_with(keyspace: Keyspace) -> None:
    assert keyspace.run("migrate").returncode == 0
    with connected(keyspace.options) as connection:
        connection.use(keyspace.options.keyspace)
        connection.change_schema("DROP TABLE offline")
        connection.write("DELETE FROM schema_version WHERE scope = 'antiphon'")
    assert keyspace.run("migrate").returncode == 0
    assert "offline" in keyspace.tables()


def test_check_names_what_is_wrong(keyspace: Keyspace) -> None:
    done = keyspace.run("check")
    assert done.returncode == 1
    assert "storage.cassandra.keyspace" in done.stderr
    assert "antiphon migrate" in done.stderr
    keyspace.write(local_datacenter="atlantis")
    assert "no data centre atlantis" in keyspace.run("check").stderr
    keyspace.write(replication=["atlantis:3"])
    assert "names the data centre atlantis" in keyspace.run("migrate").stderr
    keyspace.write(contact_points=["127.0.0.1:1"])
    assert "no Cassandra answers at 127.0.0.1:1" in keyspace.run("check").stderr
    keyspace.write()
    assert keyspace.run("migrate").returncode == 0
    assert "storage.cassandra" not in keyspace.run("check").stderr


def test_a_node_names_the_migration_that_is_missing(keyspace: Keyspace) -> None:
    done = keyspace.run("serve")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert "antiphon migrate" in line
    assert "Traceback" not in done.stderr
