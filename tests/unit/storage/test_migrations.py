# SPDX-License-Identifier: Apache-2.0
"""The files of the schema, and what is said of a keyspace, without a server."""

from collections.abc import Sequence

import pytest

from antiphon.config.stored import Cassandra
from antiphon.storage.cassandra import migrations
from antiphon.storage.cassandra.connect import CassandraFailure, Connection, Row
from antiphon.storage.cassandra.migrations import Status


class Ring(Connection):
    """Answers what the tests need of the system's tables."""

    def __init__(self, **nodes: int) -> None:
        self._nodes = nodes

    def nodes(self) -> dict[str, int]:
        return self._nodes

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        del statement, parameters
        return []


def test_versions_count_from_one_without_gaps() -> None:
    found = migrations.migrations()
    assert [one.version for one in found] == list(range(1, len(found) + 1))
    assert all(one.readers <= one.version for one in found)


def test_every_statement_may_run_twice() -> None:
    for one in migrations.migrations():
        assert one.statements
        for statement in one.statements:
            assert "IF NOT EXISTS" in statement
            assert ";" not in statement
            assert "--" not in statement


def test_a_file_is_read_statement_by_statement() -> None:
    text = "-- words; with a semicolon\n-- readers: 2\nCREATE a\n  (b);\n\n-- more\nALTER c;\n"
    found = migrations.parse(3, "name", text)
    assert found.statements == ("CREATE a\n  (b)", "ALTER c")
    assert (found.version, found.name, found.readers) == (3, "name", 2)
    assert migrations.parse(3, "name", "CREATE a;\n").readers == 3


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (Status(False, 0, 0, 2), "does not exist: run `antiphon migrate`"),
        (
            Status(True, 1, 1, 2),
            "has schema version 1 and this antiphon needs 2: run `antiphon migrate`",
        ),
        (Status(True, 2, 1, 2), None),
        (Status(True, 4, 2, 2), None),
        (
            Status(True, 4, 3, 2),
            "has schema version 4, which needs an antiphon that knows 3; this one knows 2: start the newer antiphon",
        ),
    ],
)
def test_a_keyspace_that_does_not_fit_is_told_with_what_to_do(
    status: Status, fault: str | None
) -> None:
    assert status.fault == fault


@pytest.mark.parametrize(
    ("nodes", "given", "copies"),
    [
        ({"dc1": 1}, (), "'dc1': 1"),
        ({"dc1": 5, "dc2": 2}, (), "'dc1': 3, 'dc2': 2"),
        ({"dc1": 5, "dc2": 2}, ("dc1:5",), "'dc1': 5"),
    ],
)
def test_copies_are_three_or_as_many_as_there_are_nodes_or_as_told(
    nodes: dict[str, int], given: tuple[str, ...], copies: str
) -> None:
    made = migrations.create_keyspace(Ring(**nodes), Cassandra(replication=given))
    assert f"{{'class': 'NetworkTopologyStrategy', {copies}}}" in made
    assert made.startswith('CREATE KEYSPACE IF NOT EXISTS "antiphon"')


@pytest.mark.parametrize(
    ("given", "said"),
    [("dc3:1", "names the data centre dc3; there is dc1"), ("dc1:2", "wants 2 copies in dc1")],
)
def test_copies_that_cannot_be_are_refused(given: str, said: str) -> None:
    with pytest.raises(CassandraFailure, match=said):
        migrations.create_keyspace(Ring(dc1=1), Cassandra(replication=(given,)))


def test_two_who_make_a_table_at_once_make_the_same_one() -> None:
    first, second = (migrations._version_table("a") for _ in range(2))
    assert first == second
    assert first != migrations._version_table("b")
