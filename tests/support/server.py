# SPDX-License-Identifier: Apache-2.0
"""Servers under test: Antiphon, Debian's Prosody, or one that somebody else started."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .certs import Authority, KeyPair
from .endpoint import Account, Endpoint
from .proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
BATCH = 200
COMPONENT_SECRET = "s3cr3t-of-the-gateway"


@dataclass(frozen=True)
class Settings:
    """What a test asks of a server; sections and keys as in `antiphon.toml`.

    `sections` maps a table name ("limits", "auth", "modules.register" …) to its keys.
    """

    domains: tuple[str, ...] = ("wire.example", "other.example")
    sections: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    listener_tls: str = "starttls"
    client_ca: bool = False

    @classmethod
    def of(cls, **sections: dict[str, object]) -> Settings:
        """Settings that differ in these tables; `modules_register=…` is `[modules.register]`."""
        tables = tuple(
            (
                name.replace("_", ".", 1) if name.startswith("modules_") else name,
                tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in keys.items()),
            )
            for name, keys in sorted(sections.items())
        )
        return cls(sections=tables)


@dataclass(frozen=True)
class Ports:
    """The ports of one server, all on one address."""

    c2s: int
    direct: int
    plain: int
    http: int
    https: int
    component: int


class ServerFailed(Exception):
    """The server did not start; the text ends with its log."""


@dataclass
class Server(ABC):
    """A running server, and the accounts that tests take from it one after another."""

    folder: Path
    settings: Settings
    address: str
    ports: Ports
    authority: Authority
    kind: str = ""
    process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None
    _pool: dict[str, deque[Account]] = field(default_factory=dict)
    _made: int = 0
    handed_out: list[Account] = field(default_factory=list)
    foreign_ca: Path | None = None
    """Who signed the certificate of a server that somebody else runs."""
    proxy: Proxy | None = None
    """What stands before every port, if anything does."""
    _fronts: dict[int, int] = field(default_factory=dict)

    @property
    def domain(self) -> str:
        """The first domain served."""
        return self.settings.domains[0]

    @property
    def component_domain(self) -> str:
        """The domain that the component of the tests serves."""
        return f"gateway.{self.domain}"

    @property
    def admin(self) -> Account:
        """The administrator of the first domain."""
        return Account(f"admin@{self.domain}", "the admin's password")

    def endpoint(self, kind: str = "starttls", domain: str | None = None) -> Endpoint:
        """How to reach it: starttls, direct, plain, ws or wss."""
        name = domain or self.domain
        port = {
            "starttls": self.ports.c2s,
            "direct": self.ports.direct,
            "plain": self.ports.plain,
            "ws": self.ports.http,
            "wss": self.ports.https,
        }[kind]
        port = self.front(port)
        url = f"{kind}://{self.address}:{port}{self.ws_path}" if kind in ("ws", "wss") else ""
        transport = "ws" if kind == "wss" else kind
        ca = self.foreign_ca or self.authority.ca
        return Endpoint(name, self.address, port, transport, ca, url, torn=self.torn)

    def front(self, port: int) -> int:
        """Where a client goes to reach that port: there, or the proxy before it."""
        if self.proxy is None:
            return port
        if port not in self._fronts:
            self._fronts[port] = self.proxy.front(self.address, port)
        return self._fronts[port]

    @property
    def torn(self) -> int | None:
        """The seed with which clients tear what they write; none without a proxy."""
        return None if self.proxy is None else self.proxy.seed

    ws_path = "/ws"

    def account(self, domain: str | None = None) -> Account:
        """An account that no other test has; made in batches."""
        name = domain or self.domain
        pool = self._pool.setdefault(name, deque())
        if not pool:
            pool.extend(self.named(f"u{self._made + i:04x}", name) for i in range(BATCH))
            self._made += BATCH
            self.create(list(pool))
        account = pool.popleft()
        self.handed_out.append(account)
        return account

    @staticmethod
    def named(user: str, domain: str) -> Account:
        """An account of that name with a fresh password; not created."""
        return Account(f"{user}@{domain}", secrets.token_hex(8))

    @abstractmethod
    def create(self, accounts: list[Account]) -> None:
        """Creates accounts on the running server."""

    @abstractmethod
    def start(self) -> None:
        """Starts the process and waits until it serves."""

    def log_text(self) -> str:
        """The end of the server's log."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace")[-8000:] if path.exists() else ""

    @property
    def has_ended(self) -> bool:
        """Whether the process that was started is no more."""
        return self.process is not None and self.process.poll() is not None

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        """Starts the process with its output in `server.log`."""
        self._log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )

    def wait_until_open(self, *ports: int) -> None:
        """Waits until those ports accept connections."""
        deadline = time.monotonic() + START_S
        for port in ports:
            while True:
                if self.process is not None and self.process.poll() is not None:
                    raise ServerFailed(f"{self.kind} ended at start:\n{self.log_text()}")
                try:
                    socket.create_connection((self.address, port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise ServerFailed(
                            f"{self.kind} does not listen on {port}:\n{self.log_text()}"
                        ) from None
                    time.sleep(0.02)

    def stop(self, timeout_s: float = 15.0) -> int | None:
        """Ends the process with SIGTERM (then SIGKILL); its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        code = self.process.returncode
        self.process = None
        if self._log is not None:
            self._log.close()
        return code


def free_ports(address: str, count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind((address, 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def make_ports(address: str, fixed: dict[str, int] | None = None) -> Ports:
    """Free ports, or the fixed ones of those that are named."""
    names = ("c2s", "direct", "plain", "http", "https", "component")
    chosen = dict(zip(names, free_ports(address, len(names)), strict=True))
    chosen.update(fixed or {})
    return Ports(**chosen)


def certificates(
    authority: Authority, domains: tuple[str, ...], address: str
) -> dict[str, KeyPair]:
    """One certificate per domain."""
    return {d: authority.server(d, address) for d in domains}
