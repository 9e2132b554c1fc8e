# SPDX-License-Identifier: Apache-2.0
"""slixmpp: its own integration tests, as shipped in its source package, and a long archive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.suites import Expectations, Result, judge, summary

from .conftest import CACHE, Node, needed
from .history import History

HERE = Path(__file__).parent / "slixmpp"
SOURCE = CACHE / "slixmpp-1.17.0"


def execute(node: Node, names: list[str]) -> dict[str, Result]:
    """Runs tests in one process."""
    one, two = node.accounts[:2]
    env = {
        **os.environ,
        "CI_ACCOUNT1": one.jid,
        "CI_ACCOUNT1_PASSWORD": one.password,
        "CI_ACCOUNT2": two.jid,
        "CI_ACCOUNT2_PASSWORD": two.password,
        "CI_MUC_SERVER": f"muc.{one.domain}",
        "SSL_CERT_FILE": str(node.server.authority.ca),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, str(HERE / "run.py"), str(SOURCE), node.server.address, *names]
    return outcomes(command, env)


def read_archive(node: Node, history: History, names: list[str]) -> dict[str, Result]:
    """Runs scenarios of `archive.py` in one process."""
    told = {
        "address": node.server.address,
        "port": node.server.ports.c2s,
        "accounts": [{"jid": a.jid, "password": a.password} for a in node.accounts],
        "history": history.described(),
    }
    env = {
        **os.environ,
        "INTEROP": json.dumps(told),
        "SSL_CERT_FILE": str(node.server.authority.ca),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return outcomes([sys.executable, str(HERE / "archive.py"), *names], env)


def outcomes(command: list[str], env: dict[str, str]) -> dict[str, Result]:
    """What a script told of its tests, a line each."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=540, check=False
    )
    found = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found[row["id"]] = Result(row["outcome"], row["text"])
    if not found:
        pytest.fail(f"slixmpp's tests did not run:\n{done.stderr[-3000:]}")
    return found


@pytest.fixture
def expected(node: Node) -> Expectations:
    """The committed list."""
    needed(SOURCE / "itests", "slixmpp's source package")
    return Expectations.load(HERE / "tests.toml", node.server.kind)


def test_every_test_of_the_package_is_in_the_list(node: Node, expected: Expectations) -> None:
    listed = set(expected.run) | set(expected.left_out)
    assert set(execute(node, [])) == listed


def test_slixmpp_suite(node: Node, expected: Expectations) -> None:
    complaints = judge(lambda names: execute(node, names), expected)
    assert not complaints, summary(complaints, expected)


@pytest.mark.slow
def test_slixmpp_reads_a_long_archive(node: Node, history: History) -> None:
    expected = Expectations.load(HERE / "archive.toml", node.server.kind)
    complaints = judge(lambda names: read_archive(node, history, names), expected)
    assert not complaints, summary(complaints, expected)
