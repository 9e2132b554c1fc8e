# SPDX-License-Identifier: Apache-2.0
"""What `cluster.py` loads: one node alone, and three with etcd and Cassandra, on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

ROOT = Path(__file__).resolve().parents[1]
# First: the tests' package `cluster` is meant, not the script of that name beside this file.
sys.path.insert(0, str(ROOT / "tests"))

from bench.server import ServerError  # noqa: E402
from bench.targets import Result  # noqa: E402

from cluster.support.network import Loopback  # noqa: E402
from cluster.support.node import CLIENTS, CLIENTS_TLS, DOMAIN, Node, Wiring  # noqa: E402
from cluster.support.site import Site, Unsettled  # noqa: E402
from support.antiphon import Table  # noqa: E402
from support.cassandra import Cassandra, CassandraFailed, CassandraMissing, Settings  # noqa: E402
from support.certs import Authority  # noqa: E402
from support.endpoint import Account  # noqa: E402
from support.server import ServerFailed  # noqa: E402

PASSWORD = "bench"
USERS = 2_000
PATIENCE_S = 240.0
Quiet = dict[str, Table]

WITHOUT_ARCHIVE: Quiet = {
    "archive": {"enabled": False},
    "log": {"level": "warning", "format": "json"},
    "limits": {
        "sessions_per_user": 0, "connections_per_address": 0, "auth_failures_per_minute": 0,
        "stanzas_per_second": 0, "bytes_per_second": 0,
    },
}  # fmt: skip


def accounts() -> list[Account]:
    """u0, u1 …, as the generator logs in."""
    return [Account(f"u{n}@{DOMAIN}", PASSWORD) for n in range(USERS)]


class Stand(ABC):
    """What is loaded; starts with `with`, and goes with its data. Raises ServerError."""

    name: str
    label: str

    @property
    @abstractmethod
    def nodes(self) -> list[Node]:
        """Its nodes that run."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def close(self) -> None:
        """Ends it."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def addresses(self) -> list[str]:
        """Where clients connect."""
        return [f"{node.place.address}:{CLIENTS}" for node in self.nodes]

    @property
    def direct(self) -> list[str]:
        """Where they connect with direct TLS."""
        return [f"{node.place.address}:{CLIENTS_TLS}" for node in self.nodes]

    @property
    def pids(self) -> list[int]:
        """Of its nodes."""
        return [node.process.pid for node in self.nodes if node.process is not None]

    def load(self, *arguments: str, load: Path, at: Sequence[str] = ()) -> Result:
        """Runs the generator against all nodes, or against `at`. Raises ServerError."""
        command = self.command(*arguments, load=load, at=at)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"no end after {PATIENCE_S:.0f} s") from error
        if done.returncode != 0:
            raise ServerError(done.stderr.strip() or f"the generator ended with {done.returncode}")
        return cast("Result", json.loads(done.stdout))

    def command(self, *arguments: str, load: Path, at: Sequence[str] = ()) -> list[str]:
        """The generator's words."""
        pids = ",".join(map(str, self.pids))
        where = ",".join(at or self.addresses)
        users = str(USERS) if "--users" not in arguments else ""
        more = ["--users", users] if users else []
        return [
            str(load), *arguments, *more, "--address", where, "--domain", DOMAIN, "--pid", pids,
        ]  # fmt: skip


class Alone(Stand):
    """One node without a cluster, on SQLite."""

    name = "one"
    label = "one node"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="antiphon-bench-one-"))
        pair = Authority(self.folder / "ca").server(DOMAIN)
        wiring = Wiring((), (), "", self.folder, pair, WITHOUT_ARCHIVE)
        place = Loopback().place("one")
        self.node = Node("one", place, self.folder / "one", wiring, pair, is_alone=True)

    @property
    def nodes(self) -> list[Node]:
        return [self.node]

    def __enter__(self) -> Self:
        try:
            self.node.start()
            self.node.create(accounts())
        except ServerFailed as error:
            self.close()
            raise ServerError(str(error)) from error
        return self

    def close(self) -> None:
        self.node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Three(Stand):
    """Three nodes, etcd of three members, one Cassandra."""

    name = "three"
    label = "three nodes"

    def __init__(self) -> None:
        try:
            self.ring = Cassandra(Settings(volatile=True, heap_mb=768))
        except (CassandraMissing, CassandraFailed) as error:
            raise ServerError(str(error)) from error
        self.site: Site | None = None

    @property
    def nodes(self) -> list[Node]:
        return [] if self.site is None else self.site.up

    def __enter__(self) -> Self:
        try:
            self.ring.start()
            self.site = Site(Loopback(), self.ring, sections=WITHOUT_ARCHIVE)
            self.site.start()
            self.site.up[0].create(accounts())
        except (CassandraFailed, ServerFailed, Unsettled) as error:
            self.close()
            raise ServerError(str(error)) from error
        return self

    def close(self) -> None:
        if self.site is not None:
            self.site.close()
        self.ring.close()

    @property
    def whole(self) -> Site:
        """The running cluster."""
        assert self.site is not None, "not started"
        return self.site

    def revision(self) -> int:
        """Of etcd: grows by one with every write."""
        return self.whole.etcd.revision()
