# SPDX-License-Identifier: Apache-2.0
"""A node to kill: Antiphon with its archive on, and nothing that would slow the crowd."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

from support.antiphon import Antiphon
from support.certs import Authority
from support.endpoint import Account, Endpoint
from support.server import Settings, make_ports

from .crowd import named

DOMAIN = "durable.example"
PASSWORD = "durable"


class Mortal(Antiphon):
    """One node, and the folder that outlives its processes."""

    extra_env: dict[str, str]

    @classmethod
    def make(cls, **sections: dict[str, object]) -> Mortal:
        """A node in a new folder, not started; `remove` ends it and deletes the folder."""
        folder = Path(tempfile.mkdtemp(prefix="antiphon-durability-"))
        tables: dict[str, dict[str, object]] = {
            "auth": {"scram_iterations": 4096, "allow_plaintext": True},
            "log": {"level": "warning"},
            "archive": {"enabled": True},
            **sections,
        }
        settings = Settings.of(**{k.replace(".", "_", 1): v for k, v in tables.items()})
        settings = Settings((DOMAIN,), settings.sections)
        # An address of its own: the ports must be free again and again, and those of 127.0.0.1 are
        # taken by whatever connects from there.
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
        node = cls(folder, settings, address, make_ports(address), Authority(folder / "ca"))
        node.extra_env = {}
        return node

    @property
    def data(self) -> Path:
        """The directory of its data."""
        return self.folder / "data"

    @property
    def door(self) -> Endpoint:
        """Where the crowd connects: without TLS, which would only cost time here."""
        return self.endpoint("plain")

    def people(self, count: int) -> list[Account]:
        """Creates the accounts of a crowd."""
        accounts = [Account(f"{named(n)}@{DOMAIN}", PASSWORD) for n in range(count)]
        self.create(accounts)
        return accounts

    def spawn(self, command: list[str], env: dict[str, str] | None = None) -> None:
        """As any server, with what the layer under it needs."""
        super().spawn(command, {**(env or {}), **self.extra_env})

    def kill(self) -> None:
        """SIGKILL: nothing of the process's own runs any more."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def again(self) -> None:
        """Starts the next process on what the last one left."""
        assert self.process is None, "the last one still runs"
        if self._log is not None:
            self._log.close()
        command = self.config.with_suffix(".command").read_text().splitlines()
        self.spawn(command)
        self._wait_ready()

    def start(self) -> None:
        """Starts the first process."""
        super().start()
        assert self.process is not None
        arguments = self.process.args
        assert isinstance(arguments, list)
        self.config.with_suffix(".command").write_text("\n".join(map(str, arguments)))

    def freeze(self) -> None:
        """Stops the process as SIGSTOP does."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def image(self, into: Path) -> Path:
        """A copy of the data as it lies there; the node is not running."""
        shutil.copytree(self.data, into, ignore=shutil.ignore_patterns("*.sock"))
        return into

    def memory_bytes(self) -> int:
        """What the process holds of memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def remove(self) -> None:
        """Ends the node and deletes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
