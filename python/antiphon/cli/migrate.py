# SPDX-License-Identifier: Apache-2.0
"""`antiphon migrate`: the schema of the store."""

from __future__ import annotations

import click

from antiphon.cli.shared import Failure, config_option, json_option, load, show
from antiphon.storage.cassandra import migrations
from antiphon.storage.cassandra.connect import CassandraFailure, connected


@click.command()
@click.option("--status", "only_status", is_flag=True, help="Say where it stands; change nothing.")
@click.option("--dry-run", is_flag=True, help="Print the statements; change nothing.")
@json_option
@config_option
def migrate(config_file: str | None, as_json: bool, dry_run: bool, only_status: bool) -> int:
    """Make the Cassandra keyspace and bring its schema up to date.

    Run it once before the first start and after each upgrade, before the new nodes start; the old
    ones may run meanwhile. With SQLite there is nothing to do: a node brings its file up to date.
    With --status the exit code is 1 if a node of this version could not start.
    """
    config = load(config_file).config
    if config.storage.backend != "cassandra":
        show(as_json, {"backend": config.storage.backend}, "sqlite: nothing to migrate")
        return 0
    options = config.storage.cassandra
    try:
        with connected(options) as connection:
            if dry_run:
                statements = migrations.plan(connection, options)
                text = "".join(f"{statement};\n" for statement in statements)
                show(as_json, {"statements": statements}, text.rstrip("\n"))
                return 0
            if only_status:
                found = migrations.status(connection, options.keyspace)
            else:
                found = migrations.migrate(connection, options, lambda line: _said(as_json, line))
    except CassandraFailure as error:
        raise Failure(str(error)) from error
    document = {
        "keyspace": options.keyspace,
        "version": found.version,
        "known": found.known,
        "fault": found.fault,
    }
    state = found.fault or f"has schema version {found.version}"
    show(as_json, document, f"the keyspace {options.keyspace} {state}")
    return 1 if found.fault is not None else 0


def _said(as_json: bool, line: str) -> None:
    if not as_json:
        click.echo(line)
