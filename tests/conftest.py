# SPDX-License-Identifier: Apache-2.0
"""Options, servers and clients shared by the wire and the interoperability tests.

`--server antiphon` (default) and `--server prosody` start one themselves;
`--server HOST:PORT --domain D --accounts FILE` points the same tests at any other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from support.antiphon import Antiphon
from support.certs import Authority
from support.client import LIVE, Client
from support.component import Component
from support.endpoint import Account
from support.external import External
from support.prosody import Prosody
from support.server import Ports, Server, ServerFailed, Settings, make_ports
from support.xml import presence

ADDRESS = "127.0.0.1"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that choose the server under test."""
    group = parser.getgroup("server under test")
    group.addoption("--server", default="antiphon", help="antiphon, prosody or HOST:PORT")
    group.addoption("--domain", default="localhost", help="the domain of --server HOST:PORT")
    group.addoption("--accounts", type=Path, help="file of jid,password for --server HOST:PORT")
    group.addoption("--ca", type=Path, help="certificate authority of --server HOST:PORT")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers; files of tests/wire are named after what they test."""
    config.addinivalue_line("python_files", "xep_*.py")
    config.addinivalue_line("python_files", "rfc*.py")
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
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:
    """Puts what went over the wire behind the report of a failed test."""
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.failed and LIVE:
        lines = [text for _, text in sorted(line for client in LIVE for line in client.log)]
        report.sections.append(("wire", "\n".join(lines[-200:])))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of this run."""
    return Authority(tmp_path_factory.mktemp("ca"))


class Servers:
    """Starts servers on demand, one per distinct settings, and stops them at the end."""

    def __init__(
        self, config: pytest.Config, factory: pytest.TempPathFactory, authority: Authority
    ) -> None:
        self._config, self._factory, self._authority = config, factory, authority
        self._running: dict[Settings, Server | ServerFailed] = {}
        self._retired: list[Server] = []

    def __call__(self, settings: Settings) -> Server:
        """The running server of those settings; fails the test if it does not start."""
        found = self._running.get(settings)
        if isinstance(found, Server) and found.process is not None:
            if found.process.poll() is not None:
                self._retired.append(found)
                self._running.pop(settings)
                pytest.fail(f"the server has ended by itself:\n{found.log_text()}")
        if found is None:
            if len(self._running) > 3:
                self._stop_one()
            try:
                found = self.fresh(settings)
            except ServerFailed as error:
                found = error
            self._running[settings] = found
        if isinstance(found, ServerFailed):
            pytest.fail(str(found), pytrace=False)
        return found

    def _stop_one(self) -> None:
        for settings, server in list(self._running.items())[1:]:
            if isinstance(server, Server):
                server.stop()
                self._running.pop(settings)
                return

    def fresh(self, settings: Settings, address: str = ADDRESS, **fixed: int) -> Server:
        """A server of its own, started; the caller stops it."""
        server = self.build(settings, address, **fixed)
        server.start()
        return server

    def build(self, settings: Settings, address: str = ADDRESS, **fixed: int) -> Server:
        """A server of its own, not started."""
        name = str(self._config.getoption("--server"))
        if name in ("antiphon", "prosody"):
            made = {"antiphon": Antiphon, "prosody": Prosody}[name]
            # pytest closes its own folders to other users; Prosody runs as one
            folder = Path(tempfile.mkdtemp(prefix=f"antiphon-test-{name}-"))
            ports = make_ports(address, fixed)
            server = made(folder, settings, address, ports, self._authority)
            server.kind = name
            self._retired.append(server)
            return server
        return self._external(name, settings)

    def _external(self, name: str, settings: Settings) -> Server:
        if settings != Settings():
            pytest.skip("another's server cannot be configured by a test")
        host, _, port = name.rpartition(":")
        domain = str(self._config.getoption("--domain"))
        ports = Ports(int(port), 5223, 5222, 5280, 5281, 5347)
        external = External(
            self._factory.mktemp("external"),
            Settings(domains=(domain,)),
            host,
            ports,
            self._authority,
        )
        external.kind = "external"
        external.accounts_file = self._config.getoption("--accounts")
        external.start()
        return external

    def stop(self) -> None:
        """Stops all."""
        for server in self._retired:
            with suppress(OSError):
                server.stop()
            if server.kind != "external":
                shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Servers]:
    """Every server of this run."""
    made = Servers(pytestconfig, tmp_path_factory, authority)
    yield made
    made.stop()


@pytest.fixture
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """The server under test; `@pytest.mark.settings(limits={…})` gives one with other settings."""
    mark = request.node.get_closest_marker("settings")
    return servers(Settings.of(**mark.kwargs) if mark else Settings())


class Clients:
    """Makes clients for one test and cuts their connections when it ends."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.made: list[Client] = []

    def raw(
        self, kind: str = "starttls", *, account: Account | None = None, domain: str | None = None
    ) -> Client:
        """A client that has not connected yet."""
        where = domain or (account.domain if account else None)
        client = Client(self.server.endpoint(kind, where), account)
        self.made.append(client)
        return client

    async def stream(
        self,
        kind: str = "starttls",
        *,
        account: Account | None = None,
        domain: str | None = None,
    ) -> Client:
        """A client that could authenticate now: TLS done, mechanisms offered."""
        client = self.raw(kind, account=account or self.server.account(domain), domain=domain)
        await client.negotiate()
        return client

    async def authenticated(
        self, account: Account | None = None, kind: str = "starttls"
    ) -> Client:
        """A client that has authenticated and not bound."""
        client = await self.stream(kind, account=account)
        await client.authenticate()
        return client

    async def bound(
        self,
        account: Account | Client | None = None,
        resource: str | None = None,
        kind: str = "starttls",
    ) -> Client:
        """A client with a session but no presence; `account` may be that of another client."""
        owner = account.account if isinstance(account, Client) else account
        client = self.raw(kind, account=owner or self.server.account())
        return await client.login(resource)

    async def online(
        self,
        account: Account | Client | None = None,
        resource: str | None = None,
        priority: int | None = None,
        kind: str = "starttls",
    ) -> Client:
        """A client that is available and has fetched its roster."""
        client = await self.bound(account, resource, kind)
        await client.roster()
        await client.online(priority)
        return client

    async def friends(self, a: Client, b: Client) -> None:
        """Subscribes two available clients to each other's presence, both ways."""
        for asker, asked in ((a, b), (b, a)):
            asker.send(presence(type="subscribe", to=asked.bare))
            await asked.expect("presence", type="subscribe", from_=asker.bare)
            asked.send(presence(type="subscribed", to=asker.bare))
            await asker.expect("presence", type="subscribed", from_=asked.bare)
            await asker.expect("presence", type=None, from_=asked.jid)
        for one in (a, b):
            await one.sync()
        for one in (a, b):
            one.drain()

    async def close(self) -> None:
        """Cuts every connection."""
        for client in self.made:
            client.abort()


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
