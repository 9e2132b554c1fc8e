# SPDX-License-Identifier: Apache-2.0
"""`antiphon check`: is everything right for a start?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from antiphon.admin.protocol import NAME, Client, Unreachable
from antiphon.cli import surroundings
from antiphon.cli.shared import config_option, json_option, load, show
from antiphon.config.problem import ConfigProblems, Problem
from antiphon.config.schema import Config
from antiphon.xmpp.errors import StanzaError


@click.command()
@config_option
@json_option
def check(config_file: str | None, as_json: bool) -> int:
    """Validate the configuration and its surroundings; exit code 1 on an error.

    Ports, certificates, DNS, storage, etcd and the data directory are looked at; nothing is
    changed. On a running node its ports and its store are left out, since the node holds them.
    """
    is_running = False
    try:
        loaded = load(config_file)
    except ConfigProblems as error:
        found = list(error.problems)
    else:
        is_running = asyncio.run(_is_running(loaded.config))
        found = [*loaded.warnings, *surroundings.problems(loaded, is_running=is_running)]
    errors = [problem for problem in found if not problem.is_warning]
    if not as_json:
        for problem in found:
            mark = "warning: " if problem.is_warning else ""
            click.echo(f"{mark}{problem}", err=True)
    documents = [_document(problem) for problem in found]
    state = "the node is running; its ports and store were left out" if is_running else "ok"
    show(as_json, {"ok": not errors, "problems": documents}, "" if errors else state)
    return 1 if errors else 0


def _document(problem: Problem) -> dict[str, object]:
    return {
        "level": "warning" if problem.is_warning else "error",
        "where": problem.where,
        "line": problem.line or None,
        "key": problem.key,
        "text": problem.text,
    }


async def _is_running(config: Config) -> bool:
    try:
        client = await Client.connect(Path(config.data_dir) / NAME)
    except Unreachable:
        return False
    except StanzaError:
        return True
    await client.close()
    return True
