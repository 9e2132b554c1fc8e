# SPDX-License-Identifier: Apache-2.0
"""Antiphon as the server under test: its configuration file, its command line."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic, sleep

from .endpoint import Account
from .server import (
    COMPONENT_SECRET,
    ROOT,
    START_S,
    Server,
    ServerFailed,
    certificates,
)

Table = dict[str, object]

DEFAULTS: dict[str, Table] = {
    "auth": {"scram_iterations": 4096},
    # Nothing here may trip over a limit by the mere number of tests on one address; the
    # limits themselves are tested on nodes of their own.
    "limits": {
        "connections_per_address": 0,
        "stanzas_per_second": 0,
        "bytes_per_second": 0,
        "auth_failures_per_minute": 0,
    },
}


def executable() -> Path:
    """The command under test: `ANTIPHON` or the one in the repository's `.venv`."""
    return Path(os.environ.get("ANTIPHON", ROOT / ".venv" / "bin" / "antiphon"))


def toml_value(value: object) -> str:
    """A TOML value; strings, numbers, booleans and lists."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def toml_table(name: str, keys: Table) -> str:
    """One table with its header; `name` may carry the brackets of an array of tables."""
    header = name if name.startswith("[") else f"[{name}]"
    return "\n".join([header, *(f"{k} = {toml_value(v)}" for k, v in keys.items())]) + "\n"


class Antiphon(Server):
    """A node in a subprocess, on the loopback address and ports it was given."""

    kind = "antiphon"
    config: Path
    contact_points: tuple[str, ...] = ()
    """Of the Cassandra that it keeps everything in; none: SQLite."""
    keyspace = ""

    def write_config(self) -> Path:
        """Writes `antiphon.toml` for the settings."""
        pairs = certificates(self.authority, self.settings.domains, self.address)
        (self.folder / "gateway.secret").write_text(COMPONENT_SECRET + "\n")
        tables = {name: dict(keys) for name, keys in DEFAULTS.items()}
        for name, keys in self.settings.sections:
            tables.setdefault(name, {}).update(dict(keys))
        if self.settings.client_ca:
            tables.setdefault("auth", {})["client_ca"] = self.authority.ca
        if self.contact_points:
            tables.setdefault("storage", {})["backend"] = "cassandra"
            cassandra = tables.setdefault("storage.cassandra", {})
            cassandra.setdefault("contact_points", self.contact_points)
            cassandra.setdefault("keyspace", self.keyspace)
        first, *others = self.settings.domains
        text = [
            f"domains = {toml_value(self.settings.domains)}",
            f"admins = {toml_value([self.admin.jid])}",
            f"data_dir = {toml_value(self.folder / 'data')}",
            "",
            toml_table("tls", {"certificate": pairs[first].certificate, "key": pairs[first].key}),
        ]
        text += [
            toml_table(f'domain."{d}"', {"certificate": pairs[d].certificate, "key": pairs[d].key})
            for d in others
        ]
        text += [toml_table("[[listener]]", self._listener(*row)) for row in self._listeners()]
        text.append(
            toml_table(
                "[[component]]",
                {
                    "domain": self.component_domain,
                    "secret_file": self.folder / "gateway.secret",
                },
            )
        )
        text += [toml_table(name, keys) for name, keys in tables.items()]
        self.config = self.folder / "antiphon.toml"
        self.config.write_text("\n".join(text))
        return self.config

    def _listeners(self) -> list[tuple[str, int, str]]:
        p = self.ports
        return [
            ("c2s", p.c2s, self.settings.listener_tls),
            ("c2s", p.direct, "direct"),
            ("c2s", p.plain, "none"),
            ("http", p.http, "none"),
            ("http", p.https, "direct"),
            ("component", p.component, "none"),
        ]

    def _listener(self, kind: str, port: int, tls: str) -> Table:
        return {"kind": kind, "address": f"{self.address}:{port}", "tls": tls}

    def start(self) -> None:
        """Starts `antiphon serve` and waits for `/readyz`."""
        if not executable().exists():
            raise ServerFailed(f"{executable()} is missing: run `make build` first")
        self.write_config()
        if self.contact_points:
            done = self.command("migrate")
            if done.returncode != 0:
                raise ServerFailed(f"migrate failed: {done.stdout}{done.stderr}")
        self.spawn([str(executable()), "serve", "--config", str(self.config)])
        self._wait_ready()
        self.create([self.admin])

    def _wait_ready(self) -> None:
        deadline = monotonic() + START_S
        url = f"http://{self.address}:{self.ports.http}/readyz"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            if self.process is None or self.process.poll() is not None:
                raise ServerFailed(f"the node ended at start:\n{self.log_text()}")
            try:
                with opener.open(url, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            if monotonic() > deadline:
                raise ServerFailed(f"{url} never said ready:\n{self.log_text()}")
            sleep(0.03)

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs `antiphon …` with this node's configuration."""
        return subprocess.run(
            [str(executable()), *arguments, "--config", str(self.config)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=120,
            check=False,
        )

    def create(self, accounts: list[Account]) -> None:
        """Imports accounts through the running node's admin socket."""
        lines = "".join(f"{a.jid},{a.password}\n" for a in accounts)
        done = self.command("account", "import", "-", stdin=lines)
        if done.returncode != 0:
            raise ServerFailed(f"import failed: {done.stdout}{done.stderr}")
