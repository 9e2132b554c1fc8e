# SPDX-License-Identifier: Apache-2.0
"""Smack's integration tests over TCP, in both of its implementations, and over WebSocket."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.suites import Expectations, Result, judge, summary

from .conftest import CACHE, Node, needed

HERE = Path(__file__).parent / "smack"
JARS = CACHE / "smack"
MAIN = "org.igniterealtime.smack.inttest.SmackIntegrationTestFramework"
STORE_PASSWORD = "changeit"
ROW = re.compile(r"^(?P<level>INFO|WARNING|SEVERE): (?P<name>\w+\.\w+ \([^)]*\)) (?P<rest>.*)$")
WEBSOCKET = "modular-websocket-java11"
CONNECTIONS = {
    "tcp": {"enabledConnections": "tcp", "securityMode": "required"},
    # Its TLS hangs now and then before the first byte of its handshake, on any server.
    "modular": {
        "defaultConnection": "modular",
        "enabledConnections": "modular,modular-nocompress",
        "securityMode": "disabled",
    },
    "websocket": {
        "defaultConnection": WEBSOCKET,
        "enabledConnections": WEBSOCKET,
        "securityMode": "required",
    },
}
OUTCOMES = {"Success": "ok", "Failed": "failed", "is not possible": "impossible"}


def trust(node: Node) -> Path:
    """A key store with the authority of the server under test."""
    store = node.folder / "trust.p12"
    if not store.exists():
        arguments = ["-importcert", "-noprompt", "-alias", "ca"]
        arguments += ["-file", str(node.server.authority.ca), "-keystore", str(store)]
        arguments += ["-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
        subprocess.run(["keytool", *arguments], check=True, capture_output=True)
    return store


def properties(node: Node) -> list[str]:
    """Where the server is and who administers it; the hosts file stands in for DNS."""
    server = node.server
    hosts = node.folder / "hosts"
    hosts.write_text(f"{server.address} {server.domain}\n")
    values = {
        "jdk.net.hosts.file": hosts,
        "javax.net.ssl.trustStore": trust(node),
        "javax.net.ssl.trustStorePassword": STORE_PASSWORD,
        "sinttest.service": server.domain,
        "sinttest.host": server.address,
        "sinttest.adminAccountUsername": server.admin.user,
        "sinttest.adminAccountPassword": server.admin.password,
        "sinttest.replyTimeout": 10_000,
    }
    return [f"-D{key}={value}" for key, value in values.items()]


def execute(node: Node, connection: str, names: list[str]) -> dict[str, Result]:
    """Runs the tests of these names; a name is `Class.method (kind[, connection])`."""
    enabled = sorted({name.partition(" ")[0] for name in names})
    more = [f"-Dsinttest.{key}={value}" for key, value in CONNECTIONS[connection].items()]
    command = ["java", "-Xmx512m", *properties(node), *more]
    command += [f"-Dsinttest.enabledTests={','.join(enabled)}", "-cp", f"{JARS}/*", MAIN]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=node.folder, timeout=300, check=False
    )
    output = done.stdout + done.stderr
    with (node.folder / "smack.log").open("a") as log:
        log.write(output)
    return {name: result for name, result in read(output).items() if name in names}


def read(output: str) -> dict[str, Result]:
    """The outcome of each test in the framework's log; a failure with its stack trace."""
    lines = output.splitlines()
    found: dict[str, Result] = {}
    for i, line in enumerate(lines):
        row = ROW.match(line)
        if row is None:
            continue
        name, rest = row["name"], row["rest"]
        if rest in OUTCOMES:
            found[name] = Result(OUTCOMES[rest])
        elif rest.startswith("failed: "):
            found[name] = Result("failed", "\n".join([rest, *lines[i + 1 : i + 12]]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_smack_suite(request: pytest.FixtureRequest, connection: str) -> None:
    node: Node = request.getfixturevalue("clear_node" if connection == "modular" else "node")
    needed(JARS / "smack-integration-test-4.5.0-beta5.jar", "Smack's integration tests")
    if shutil.which("java") is None:
        pytest.skip("java is missing: run `make deps`")
    expected = Expectations.load(HERE / f"{connection}.toml", node.server.kind)
    complaints = judge(lambda names: execute(node, connection, names), expected)
    log = node.folder / "smack.log"
    assert not complaints, f"{summary(complaints, expected)}\n{log.read_text()[-2000:]}"
