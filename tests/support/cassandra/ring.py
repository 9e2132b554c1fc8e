# SPDX-License-Identifier: Apache-2.0
"""A ring of one to three nodes, in a folder of its own."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

from .install import CassandraFailed, jars
from .node import Node
from .settings import Place, Ports, Secured, Settings, choose_ports


class _Stored(TypedDict):
    """What `ring.json` holds."""

    settings: dict[str, object]
    ports: dict[str, int]


class Cassandra:
    """A real Apache Cassandra; nodes are numbered from 1.

    `with Cassandra(Settings(version="4.1")) as it:` starts one and removes it afterwards. Without
    `folder` the data is in a new one below the folder for temporary files, and `close` removes it.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        folder: Path | None = None,
        *,
        outlive: bool = False,
    ) -> None:
        """Starts nothing yet. With `outlive` the processes do not end with this one.

        Raises `CassandraMissing` where `make deps` has not brought it, `ValueError` for settings
        that cannot be, `CassandraFailed` for a folder that holds another ring or a taken port.
        """
        self.settings = settings or Settings()
        self.settings.check()
        lib = jars(self.settings.version)
        self._is_ours = folder is None
        self._outlive = outlive
        self.folder = (folder or Path(tempfile.mkdtemp(prefix="antiphon-cassandra-"))).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.ports = self._settle()
        except CassandraFailed:
            self._remove()
            raise
        self.nodes = [
            Node(Place(n, self.folder / f"node{n}", self.settings, self.ports, lib))
            for n in range(1, self.settings.nodes + 1)
        ]

    @classmethod
    def ring(cls, count: int = 3, settings: Settings | None = None) -> Self:
        """A ring of that many nodes; not started."""
        return cls(replace(settings or Settings(), nodes=count))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The ring that somebody made in that folder, running or not.

        Raises `CassandraFailed` where there is none.
        """
        stored = _read(folder)
        if stored is None:
            raise CassandraFailed(f"no ring was made in {folder}")
        return cls(_settings(stored), folder, outlive=True)

    def _settle(self) -> Ports:
        """The ports: chosen the first time, stored for later."""
        stored = _read(self.folder)
        if stored is not None:
            if _settings(stored) != self.settings:
                raise CassandraFailed(f"{self.folder} holds a ring with other settings: remove it")
            return Ports(**stored["ports"])
        ports = choose_ports(self.settings)
        document = {"settings": asdict(self.settings), "ports": asdict(ports)}
        (self.folder / "ring.json").write_text(json.dumps(document, default=str, indent=1) + "\n")
        return ports

    @property
    def contact_points(self) -> list[str]:
        """`ADDRESS:PORT` of every node, as `storage.cassandra.contact_points` wants it."""
        return [node.contact_point for node in self.nodes]

    @property
    def addresses(self) -> list[str]:
        """The addresses alone, as the Python driver wants them beside `port`."""
        return self.settings.addresses

    @property
    def port(self) -> int:
        """The port for CQL on each of them."""
        return self.ports.cql

    def start(self) -> Self:
        """Starts what does not run; returns when all answer and see each other.

        Raises `CassandraFailed` with the end of the log of the one that does not.
        """
        for node in self.nodes:
            node.launch(outlive=self._outlive)
        self._wait_whole()
        return self

    def _wait_whole(self) -> None:
        for node in self.nodes:
            node.wait(whole=True)

    def kill(self, number: int = 1) -> None:
        """Ends a node at once (SIGKILL); the others notice after 10 to 20 s."""
        self._refuse_volatile()
        self.node(number).kill()

    def pause(self, number: int = 1) -> None:
        """Freezes a node (SIGSTOP): worse for a client than a dead one."""
        self.node(number).pause()

    def resume(self, number: int = 1) -> None:
        """Lets it go on."""
        self.node(number).resume()

    def restart(self, number: int = 1) -> None:
        """Starts a node again, having stopped it in order where it runs.

        Waits until it answers, and until the ring is whole where none of it is down.
        """
        self._refuse_volatile()
        node = self.node(number)
        node.stop()
        node.launch(outlive=self._outlive)
        node.wait()
        if all(one.pid is not None for one in self.nodes):
            self._wait_whole()

    def heal(self) -> None:
        """Makes the ring whole again after a test: frozen nodes go on, dead ones are started."""
        for node in self.nodes:
            node.resume()
        self.start()

    def node(self, number: int) -> Node:
        """A node by its number. Raises `ValueError` for one that is not."""
        if not 1 <= number <= len(self.nodes):
            raise ValueError(f"there is no node {number}")
        return self.nodes[number - 1]

    def nodetool(self, *words: str) -> str:
        """What `nodetool` says on every node, one after another; see `Node.nodetool`."""
        return "".join(node.nodetool(*words) for node in self.nodes)

    def size_bytes(self, keyspace: str) -> int:
        """Bytes that a keyspace takes on the disks of all nodes; flush and compact before."""
        folders = [node.place.folder / "data" / keyspace for node in self.nodes]
        files = (file for folder in folders for file in folder.rglob("*"))
        return sum(file.stat().st_size for file in files if file.is_file())

    def stop(self) -> None:
        """Ends all nodes in order; the data stays and `start` finds it again."""
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            node.stop()

    def close(self) -> None:
        """Ends all nodes at once; removes the data unless the caller named the folder."""
        for node in self.nodes:
            node.kill()
        self._remove()

    def _remove(self) -> None:
        if self._is_ours:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _refuse_volatile(self) -> None:
        if self.settings.volatile:
            raise ValueError("a volatile node must not be killed: take one that may break")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def unique_keyspace(prefix: str = "test") -> str:
    """A name that no other test has."""
    return f"{prefix}_{secrets.token_hex(6)}"


def _read(folder: Path) -> _Stored | None:
    path = folder / "ring.json"
    if not path.exists():
        return None
    document: _Stored = json.loads(path.read_text())
    return document


def _settings(stored: _Stored) -> Settings:
    """The settings of `ring.json`."""
    keys = dict(stored["settings"])
    secured = keys.pop("secured")
    files = {k: Path(v) for k, v in secured.items()} if isinstance(secured, dict) else None
    options = keys.pop("java")
    java = tuple(str(option) for option in options) if isinstance(options, list) else ()
    plain = Settings(**keys)  # type: ignore[arg-type]
    return replace(plain, secured=Secured(**files) if files else None, java=java)
