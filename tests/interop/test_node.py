# SPDX-License-Identifier: Apache-2.0
"""JavaScript clients from npm: @xmpp/client over three transports, stanza over WebSocket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.suites import Expectations, Result, judge, summary

from .conftest import Node, needed
from .history import History

HERE = Path(__file__).parent / "node"


def execute(
    node: Node, script: str, names: list[str], history: History | None = None
) -> dict[str, Result]:
    """Runs scenarios of one script; without names all."""
    server = node.server
    ports = {"c2s": server.ports.c2s, "direct": server.ports.direct, "https": server.ports.https}
    environment = {
        "domain": server.domain,
        "address": server.address,
        "ports": ports,
        "accounts": [{"user": a.user, "password": a.password} for a in node.accounts],
        "history": None if history is None else history.described(),
    }
    env = {
        **os.environ,
        "INTEROP": json.dumps(environment),
        "NODE_EXTRA_CA_CERTS": str(server.authority.ca),
        "NODE_NO_WARNINGS": "1",
    }
    done = subprocess.run(
        ["node", script, *names],
        cwd=HERE,
        env=env,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith('{"id"'):
            row = json.loads(line)
            found[row["id"]] = Result(row["outcome"], row["text"])
    if not found:
        pytest.fail(f"{script} did not run:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return found


def judged(node: Node, name: str, history: History | None = None) -> None:
    """Runs a script; fails the test unless what its list says of it holds."""
    if shutil.which("node") is None:
        pytest.skip("node is missing: run `make deps`")
    needed(HERE / "node_modules" / "@xmpp" / "client", "the clients from npm")
    expected = Expectations.load(HERE / f"{name}.toml", node.server.kind)
    complaints = judge(lambda names: execute(node, f"{name}.mjs", names, history), expected)
    assert not complaints, summary(complaints, expected)


@pytest.mark.parametrize("name", ["xmppjs", "stanza"])
def test_javascript_client(node: Node, name: str) -> None:
    judged(node, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["archive-xmppjs", "archive-stanza"])
def test_javascript_client_reads_a_long_archive(node: Node, history: History, name: str) -> None:
    judged(node, name, history)
