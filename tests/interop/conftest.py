# SPDX-License-Identifier: Apache-2.0
"""A server on the well-known ports of a loopback address of its own, for clients that know no other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.endpoint import Account
from support.play import Servers
from support.server import Server, Settings

from .history import History, accounts, fill

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PORTS = {"c2s": 5222, "direct": 5223, "http": 5280, "https": 5281, "component": 5347}
DOMAIN = "interop.example"


@dataclass
class Node:
    """The server under test and the accounts that foreign clients log in to."""

    server: Server
    accounts: list[Account]
    folder: Path


def free_address() -> str:
    """A loopback address on which nobody uses the well-known ports."""
    for last in range(2, 250):
        address = f"127.0.0.{last}"
        sockets = []
        try:
            for port in PORTS.values():
                sockets.append(socket.socket())
                sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sockets[-1].bind((address, port))
        except OSError:
            continue
        else:
            return address
        finally:
            for s in sockets:
                s.close()
    pytest.fail("no loopback address has the ports 5222, 5223, 5280, 5281 and 5347 free")


def _node(servers: Servers, folder: Path, settings: Settings) -> Iterator[Node]:
    server = servers.build(settings, free_address(), **PORTS)
    server.start()
    if server.kind == "external":
        accounts = [server.account() for _ in range(3)]
    else:
        accounts = [server.named(user, DOMAIN) for user in ("romeo", "juliet", "nurse")]
        server.create(accounts)
    yield Node(server, accounts, folder)
    server.stop()


@pytest.fixture(scope="session")
def node(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The server under test on 5222, 5223, 5280 and 5281 of an own loopback address."""
    yield from _node(servers, tmp_path_factory.mktemp("interop"), Settings(domains=(DOMAIN,)))


@pytest.fixture(scope="session")
def history(node: Node) -> History:
    """An archive of 10,000 messages on the server under test."""
    if node.server.kind == "prosody":
        pytest.skip("Prosody keeps no archive in these tests")
    made = accounts(node.server, node.server.domain)
    asyncio.run(fill(node.server.endpoint(), made))
    return made


@pytest.fixture(scope="session")
def clear_node(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One that lets clients log in without TLS, for a client whose own TLS hangs."""
    sections = Settings.of(auth={"allow_plaintext": True}).sections
    settings = Settings(domains=(DOMAIN,), sections=sections)
    yield from _node(servers, tmp_path_factory.mktemp("interop"), settings)


def needed(path: Path, what: str) -> Path:
    """A file that `make deps` brings; the test is skipped where it is missing."""
    if not path.exists():
        pytest.skip(f"{what} is missing: run `make deps`")
    return path
