# SPDX-License-Identifier: Apache-2.0
"""Options, servers and clients shared by the wire and the interoperability tests.

`--server antiphon` (default) and `--server prosody` start one themselves;
`--server HOST:PORT --domain D --accounts FILE` points the same tests at any other.
`--store cassandra` gives Antiphon a Cassandra to keep everything in, a keyspace for each node.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.certs import Authority
from support.client import LIVE, Client
from support.component import Component
from support.keyspaces import Keyspaces
from support.play import Clients, Servers
from support.server import Server, Settings

pytest_plugins = ["support.cassandra.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that choose the server under test."""
    group = parser.getgroup("server under test")
    group.addoption("--server", default="antiphon", help="antiphon, prosody or HOST:PORT")
    group.addoption("--domain", default="localhost", help="the domain of --server HOST:PORT")
    group.addoption("--accounts", type=Path, help="file of jid,password for --server HOST:PORT")
    group.addoption(
        "--store",
        default="sqlite",
        choices=("sqlite", "cassandra", "cassandra41"),
        help="where Antiphon keeps everything; ANTIPHON_TEST_CASSANDRA names one that runs already",
    )
    group.addoption("--proxy", type=int, metavar="SEED", help="tear and delay all streams")
    group.addoption("--ca", type=Path, help="certificate authority of --server HOST:PORT")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers; files of tests/wire are named after what they test."""
    config.addinivalue_line("python_files", "xep_*.py")
    config.addinivalue_line("python_files", "rfc*.py")
    config.addinivalue_line("python_files", "attack_*.py")
    config.addinivalue_line("python_files", "archive_*.py")
    config.addinivalue_line("python_files", "inbox*.py")
    for name in ("limits.py", "operations.py", "crossings.py", "modules_off.py"):
        config.addinivalue_line("python_files", name)
    for line in (
        "ours(reason): an expectation that the standard leaves open; skipped on other servers",
        "deviates(prosody=reason): what that server is known to answer otherwise",
        "settings(**sections): the server of this module or test differs in these tables",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips, with its reason, what another server need not do."""
    server = str(config.getoption("--server"))
    if server == "antiphon":
        return
    for item in items:
        if "wire" not in item.path.parts:
            continue
        ours = item.get_closest_marker("ours")
        if ours is not None:
            item.add_marker(pytest.mark.skip(reason=f"our own expectation: {ours.args[0]}"))
        for mark in item.iter_markers("deviates"):
            if server in mark.kwargs:
                reason = f"{server} deviates: {mark.kwargs[server]}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Puts what went over the wire behind the report of a failed test."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed and LIVE:
        lines = [text for _, text in sorted(line for client in LIVE for line in client.log)]
        report.sections.append(("wire", "\n".join(lines[-200:])))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of this run."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def servers(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    request: pytest.FixtureRequest,
) -> Iterator[Servers]:
    """Every server of this run."""
    keyspaces = None
    if (store := str(pytestconfig.getoption("--store"))) != "sqlite":
        given = os.environ.get("ANTIPHON_TEST_CASSANDRA")
        points = given.split(",") if given else request.getfixturevalue(store).contact_points
        keyspaces = Keyspaces(points)
    made = Servers(pytestconfig, tmp_path_factory, authority, keyspaces)
    yield made
    made.stop()


@pytest.fixture
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """The server under test; `@pytest.mark.settings(limits={…})` gives one with other settings."""
    mark = request.node.get_closest_marker("settings")
    return servers(Settings.of(**mark.kwargs) if mark else Settings())


@pytest_asyncio.fixture
async def clients(server: Server) -> AsyncIterator[Clients]:
    """Makes clients; see `Clients`."""
    LIVE.clear()
    made = Clients(server)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def romeo(clients: Clients) -> Client:
    """An available client of a fresh account, with resource `orchard`."""
    return await clients.online(resource="orchard")


@pytest_asyncio.fixture
async def juliet(clients: Clients) -> Client:
    """Another available client of a fresh account, a stranger to Romeo; resource `balcony`."""
    return await clients.online(resource="balcony")


@pytest_asyncio.fixture
async def couple(clients: Clients, romeo: Client, juliet: Client) -> tuple[Client, Client]:
    """Romeo and Juliet, subscribed to each other's presence."""
    await clients.friends(romeo, juliet)
    return romeo, juliet


@pytest_asyncio.fixture
async def component(server: Server, clients: Clients) -> AsyncIterator[Component]:
    """The connected component of the server's configuration."""
    made = await Component(server).login()
    yield made
    await made.close()


@pytest.fixture
def new_server(servers: Servers) -> Callable[..., Server]:
    """Starts a server for one test alone: `new_server(limits={…})`."""
    return lambda **sections: servers.fresh(Settings.of(**sections))
