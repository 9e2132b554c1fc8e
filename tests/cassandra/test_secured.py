# SPDX-License-Identifier: Apache-2.0
"""A node on a Cassandra that speaks TLS only and asks for a password."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from antiphon.config.stored import Cassandra as Options
from antiphon.storage.cassandra.connect import connected
from support.antiphon import Antiphon
from support.cassandra import Cassandra, Secured, unique_keyspace
from support.cassandra import Settings as RingSettings
from support.cassandra.fixtures import Cassandras
from support.certs import Authority
from support.client import Client
from support.play import Servers
from support.server import Settings
from support.xml import message

LOGIN = {"user": "cassandra", "password": "cassandra"}


@pytest.fixture
def ring(authority: Authority, cassandras: Cassandras) -> Cassandra:
    """It is shared with other tests of such a one where the settings are equal."""
    pair = authority.server("cassandra.example", "127.0.0.1")
    return cassandras(RingSettings(secured=Secured(pair.certificate, pair.key, authority.ca)))


def node(servers: Servers, ring: Cassandra, keyspace: str, **keys: object) -> Antiphon:
    """A node with these keys of `[storage.cassandra]`, not started."""
    made = servers.build(Settings(sections=(("storage.cassandra", tuple(keys.items())),)))
    assert isinstance(made, Antiphon)
    made.contact_points, made.keyspace = tuple(ring.contact_points), keyspace
    return made


@pytest.mark.slow
async def test_a_node_logs_in_over_tls_and_keeps_messages(
    servers: Servers, ring: Cassandra, authority: Authority, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("cassandra\n")
    keyspace = unique_keyspace("secured")
    keys = {"user": "cassandra", "password_file": str(secret), "ca": str(authority.ca)}
    server = node(servers, ring, keyspace, **keys)
    server.start()
    try:
        romeo, absent = server.account(), server.account()
        client = Client(server.endpoint("starttls"), romeo)
        await client.login("desk")
        client.send(message(absent.jid, "wherefore", type="chat"))
        await client.close()
        other = Client(server.endpoint("starttls"), absent)
        await other.login("phone")
        await other.online()
        assert (await other.expect("message")).body == "wherefore"
        await other.close()
    finally:
        server.stop()
        options = Options(contact_points=tuple(ring.contact_points), ca=str(authority.ca), **LOGIN)
        with connected(options) as connection:
            connection.change_schema(f"DROP KEYSPACE IF EXISTS {keyspace}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"user": "cassandra", "password": "wrong"}, "login"),
        ({}, "login"),
        (LOGIN, ""),
    ],
    ids=["wrong password", "no login", "no TLS"],
)
def test_migrate_says_what_is_wrong(
    servers: Servers, ring: Cassandra, authority: Authority, keys: dict[str, str], hint: str
) -> None:
    tls = {} if keys is LOGIN else {"ca": str(authority.ca)}
    server = node(servers, ring, unique_keyspace("secured"), connect_seconds=5, **tls, **keys)
    server.write_config()
    done: subprocess.CompletedProcess[str] = server.command("migrate")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    assert hint in said
