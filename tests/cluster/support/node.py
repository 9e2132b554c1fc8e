# SPDX-License-Identifier: Apache-2.0
"""One node of a cluster under test: its configuration, its process, what befalls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.antiphon import DEFAULTS, Table, executable, toml_table
from support.certs import KeyPair
from support.endpoint import Account, Endpoint
from support.server import START_S, ServerFailed

from .network import Place
from .writes import Write, read

DOMAIN = "cluster.example"
LOADS = 40
"""How many loads one site can bear, each with users of a domain of its own."""
DOMAINS = (DOMAIN, *(f"load{n}.example" for n in range(LOADS)))
CLUSTER = "chaos"
CLIENTS, CLIENTS_TLS, LINKS, CONTROL, HTTP = 5222, 5223, 5270, 5271, 5280

SHARED = ("cluster", "storage")
"""Sections that a node has for the sake of others."""

RUN_AS = "import antiphon; antiphon.__version__ = {!r}; from antiphon.cli import main; main()"
"""The same program under another version number."""

OTHER_BUILD = "ANTIPHON_OTHER_BUILD"
"""Names the folder of another build, for tests of two versions beside each other."""

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Wiring:
    """What all nodes of a cluster are told alike."""

    etcd: Sequence[str]
    contact_points: Sequence[str]
    keyspace: str
    ca: Path
    """Of the certificates of nodes."""
    tls: KeyPair
    """What clients see."""
    sections: Mapping[str, Table] = field(default_factory=dict)
    """Further tables of the configuration."""


@dataclass
class Node:
    """A process, and the folder that outlives it."""

    name: str
    place: Place
    folder: Path
    wiring: Wiring
    identity: KeyPair
    """Its certificate for other nodes."""
    extra: dict[str, Table] = field(default_factory=dict)
    """Its own tables, over those of all."""
    version: str | None = None
    """Another version number than the real one."""
    build: Path | None = None
    """The folder of another build, with its `python/`; None: the one under test."""
    is_alone: bool = False
    """A node without a cluster, on SQLite."""
    tells_writes: bool = False
    """Whether it tells `write_log` whose rows it writes."""
    environment: dict[str, str] = field(default_factory=dict)
    """Further variables for its process."""
    process: subprocess.Popen[bytes] | None = None
    is_frozen: bool = False
    lives: int = 0

    # -- configuration ---------------------------------------------------
    @property
    def config(self) -> Path:
        """`antiphon.toml`."""
        return self.folder / "antiphon.toml"

    def tables(self) -> dict[str, Table]:
        """The tables of the configuration, lists of listeners apart."""
        wiring = self.wiring
        tables: dict[str, Table] = {name: dict(keys) for name, keys in DEFAULTS.items()}
        ours: dict[str, Table] = {
            "node": {"name": self.name, "worker_threads": 1},
            "tls": {"certificate": wiring.tls.certificate, "key": wiring.tls.key},
            "auth": {"allow_plaintext": True},
            "archive": {"enabled": True},
            "log": {"level": "info", "format": "json"},
            "storage": {"backend": "cassandra"},
            "storage.cassandra": {
                "contact_points": wiring.contact_points,
                "keyspace": wiring.keyspace,
            },
            "cluster": {"backend": "etcd", "name": CLUSTER, "control_port": CONTROL},
            "cluster.etcd": {"endpoints": wiring.etcd},
            "cluster.tls": {
                "ca": wiring.ca,
                "certificate": self.identity.certificate,
                "key": self.identity.key,
            },
        }
        # Another build may not know the key.
        if self.tells_writes and self.build is None:
            ours["cluster"]["write_log"] = self.write_log
        if self.is_alone:
            ours = {k: v for k, v in ours.items() if k.partition(".")[0] not in SHARED}
        for more in (ours, wiring.sections, self.extra):
            for name, keys in more.items():
                tables.setdefault(name, {}).update(keys)
        return tables

    def write_config(self) -> None:
        """Writes `antiphon.toml`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head: Table = {
            "domains": DOMAINS,
            "admins": (f"admin@{DOMAIN}",),
            "data_dir": self.folder / "data",
        }
        listeners = [
            {"kind": "c2s", "address": f"{self.place.address}:{CLIENTS}", "tls": "none"},
            {"kind": "http", "address": f"{self.place.address}:{HTTP}", "tls": "none"},
            {"kind": "c2s", "address": f"{self.place.address}:{CLIENTS_TLS}", "tls": "direct"},
            {"kind": "cluster", "address": f"{self.place.address}:{LINKS}"},
        ]
        listeners[1]["paths"] = ("/livez", "/readyz", "/metrics")  # type: ignore[assignment]
        if self.is_alone:
            listeners.pop()
        text = [toml_table("", head).partition("\n")[2]]
        text += [toml_table("[[listener]]", dict(one)) for one in listeners]
        text += [toml_table(name, keys) for name, keys in self.tables().items()]
        self.config.write_text("\n".join(text))

    # -- life ------------------------------------------------------------
    @property
    def door(self) -> Endpoint:
        """Where clients come in: without TLS, which would only cost time here."""
        return Endpoint(DOMAIN, self.place.address, CLIENTS, "plain")

    @property
    def is_up(self) -> bool:
        """Whether its process runs and is not frozen."""
        return self.process is not None and self.process.poll() is None and not self.is_frozen

    def spawn(self) -> None:
        """Starts the process; returns at once."""
        assert self.process is None, f"{self.name} runs"
        if not executable().exists():
            raise ServerFailed(f"{executable()} is missing: run `make build` first")
        self.write_config()
        command = [str(executable())]
        environment = {k: v for k, v in os.environ.items() if k != OTHER_BUILD}
        if self.version is not None:
            command = [sys.executable, "-c", RUN_AS.format(self.version)]
        if self.build is not None:
            environment["PYTHONPATH"] = str(self.build / "python")
        self.lives += 1
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.place.prefix, *command, "serve", "--config", str(self.config)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **self.environment},
            )

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Waits for `/readyz`. Raises `ServerFailed` with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self.process is None or self.process.poll() is not None:
                raise ServerFailed(f"{self.name} ended at start:\n{self.log_text()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} never said ready:\n{self.log_text()}")
            time.sleep(0.1)

    def start(self) -> None:
        """Starts the process and waits until it takes clients."""
        self.spawn()
        self.wait_ready()

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            with _OPENER.open(f"http://{self.place.address}:{HTTP}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> str:
        """`/metrics` as text. Raises `OSError` where it does not answer."""
        with _OPENER.open(f"http://{self.place.address}:{HTTP}/metrics", timeout=5) as answer:
            text: bytes = answer.read()
            return text.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, or over the rows with these; 0 if there is none.

        A label whose name is a word of Python is given with an underscore behind it.
        """
        wanted = [f'{key.rstrip("_")}="{value}"' for key, value in labels.items()]
        total = 0.0
        for row in self.metrics().splitlines():
            series, _, value = row.rpartition(" ")
            if series.partition("{")[0] == name and all(label in series for label in wanted):
                total += float(value)
        return total

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.is_frozen = False

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nobody answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)
        self.is_frozen = False

    def terminate(self) -> None:
        """SIGTERM: it drains and ends; returns at once."""
        assert self.process is not None
        self.process.terminate()

    def wait_end(self, timeout_s: float = 60.0) -> int:
        """Waits for its end; the exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self.process = None
        return code

    def stop(self) -> None:
        """Ends it, in order if it can."""
        if self.process is None:
            return
        if self.is_frozen:
            self.thaw()
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def memory_bytes(self) -> int:
        """What the process holds of memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def has_open(self, folder: Path) -> bool:
        """Whether its process runs code below a folder."""
        assert self.process is not None
        return f"{folder}/" in Path(f"/proc/{self.process.pid}/maps").read_text()

    # -- what it says ----------------------------------------------------
    @property
    def log_file(self) -> Path:
        """All that it has written, of all its lives."""
        return self.folder / "node.log"

    def log_text(self, *, tail: int = 6_000) -> str:
        """The end of its log."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_text(errors="replace")[-tail:]

    @property
    def write_log(self) -> Path:
        """Whose rows it has written, of all its lives."""
        return self.folder / "writes.log"

    def writes(self, since: int = 0) -> list[Write]:
        """Whose rows it has written, behind this place of its file."""
        if not self.write_log.exists():
            return []
        with self.write_log.open() as file:
            file.seek(since)
            return read(file)

    @property
    def log_size(self) -> int:
        """How much it has written so far, bytes."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log_since(self, offset: int) -> str:
        """What it has written behind an earlier `log_size`."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")

    def command(
        self, *arguments: str, stdin: str = "", timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs `antiphon …` with this node's configuration."""
        return subprocess.run(
            [str(executable()), *arguments, "--config", str(self.config)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout_s,
            check=False,
        )

    def create(self, accounts: Sequence[Account]) -> None:
        """Imports accounts through the running node."""
        lines = "".join(f"{a.jid},{a.password}\n" for a in accounts)
        done = self.command("account", "import", "-", stdin=lines)
        if done.returncode != 0:
            raise ServerFailed(f"import failed: {done.stdout}{done.stderr}\n{self.log_text()}")
