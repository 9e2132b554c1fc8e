# SPDX-License-Identifier: Apache-2.0
"""What a test is given: servers with the settings it asks for, and clients of them."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from .antiphon import Antiphon
from .certs import Authority
from .client import Client
from .endpoint import Account
from .external import External
from .keyspaces import Keyspaces
from .prosody import Prosody
from .proxy import Proxy
from .server import Ports, Server, ServerFailed, Settings, make_ports
from .xml import presence

ADDRESS = "127.0.0.1"


class Servers:
    """Starts servers on demand, one per distinct settings, and stops them at the end."""

    def __init__(
        self,
        config: pytest.Config,
        factory: pytest.TempPathFactory,
        authority: Authority,
        keyspaces: Keyspaces | None = None,
    ) -> None:
        self._config, self._factory, self._authority = config, factory, authority
        self._keyspaces = keyspaces
        self._running: dict[Settings, Server | ServerFailed] = {}
        self._retired: list[Server] = []
        seed = config.getoption("--proxy")
        self._proxy = None if seed is None else Proxy(int(seed))

    def __call__(self, settings: Settings) -> Server:
        """The running server of those settings; fails the test if it does not start."""
        found = self._running.get(settings)
        if isinstance(found, Server) and found.has_ended:
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
        server.proxy = self._proxy
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
            if isinstance(server, Antiphon) and self._keyspaces is not None:
                server.contact_points = self._keyspaces.contact_points
                server.keyspace = self._keyspaces.new()
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
        external.foreign_ca = self._config.getoption("--ca")
        external.start()
        return external

    def stop(self) -> None:
        """Stops all."""
        if self._proxy is not None:
            self._proxy.stop()
        for server in self._retired:
            with suppress(OSError):
                server.stop()
            if server.kind != "external":
                shutil.rmtree(server.folder, ignore_errors=True)
        if self._keyspaces is not None:
            self._keyspaces.drop()


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

    async def authenticated(self, account: Account | None = None, kind: str = "starttls") -> Client:
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
