# SPDX-License-Identifier: Apache-2.0
"""A server under load: in a folder of its own, on loopback ports of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from bench.accounts import Accounts

START_S = 60.0
STOP_S = 20.0


class ServerError(Exception):
    """A server is not installed, or does not start; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """What a server is given: its folder, the certificate, its first port and its processor."""

    folder: Path
    certificate: Path
    key: Path
    port: int
    cpu: int | None


def as_user(name: str) -> list[str]:
    """The words before a command that run it as this user, where we are root."""
    if os.getuid() != 0:
        return []
    try:
        pwd.getpwnam(name)
    except KeyError as err:
        raise ServerError(f"there is no user {name}") from err
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"]


class Server(ABC):
    """One server; `start` it, load it, `stop` it."""

    name: ClassVar[str]
    label: ClassVar[str]
    tuning: ClassVar[str]
    is_rival: ClassVar[bool] = True
    is_default: ClassVar[bool] = False
    """As it comes, for comparison; ratios are taken against the tuned."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def plain(self) -> str:
        """Where clients connect without TLS."""
        return f"127.0.0.1:{self.place.port}"

    @property
    def direct(self) -> str:
        """Where they connect with direct TLS."""
        return f"127.0.0.1:{self.place.port + 1}"

    @property
    def administration(self) -> str:
        """Where its own HTTP pages are, if it has some."""
        return f"127.0.0.1:{self.place.port + 2}"

    @property
    def database(self) -> int:
        """The process of its database, if it has one apart; else 0."""
        return 0

    @property
    def pid(self) -> int:
        """The process whose family is measured. Raises ServerError before `start`."""
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """As the server tells it. Raises ServerError if it is not installed."""

    @abstractmethod
    def prepare(self, accounts: Accounts) -> None:
        """Writes configuration and, where files do, the accounts."""

    @abstractmethod
    def command(self) -> list[str]:
        """What runs it in the foreground."""

    def populate(self) -> None:
        """Makes the accounts of a running server; not needed where files did."""
        return

    def start(self, accounts: Accounts) -> None:
        """Prepares and starts it, and waits until it listens. Raises ServerError."""
        self.prepare_folder(accounts)
        self.launch()

    def prepare_folder(self, accounts: Accounts) -> None:
        """Makes the folder and what `prepare` writes. Raises ServerError."""
        self.place.folder.mkdir(mode=0o755, parents=True)
        self.prepare(accounts)

    def launch(self) -> None:
        """Starts it once it is prepared, and waits until it listens. Raises ServerError."""
        pinned = [] if self.place.cpu is None else ["taskset", "-c", str(self.place.cpu)]
        self._output = (self.place.folder / "output.txt").open("wb")
        self._process = subprocess.Popen(
            [*pinned, *self.command()],
            cwd=self.place.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HOME": str(self.place.folder)},
        )
        try:
            self._wait_for_ports()
            self.populate()
        except (OSError, ServerError) as err:
            text = (self.place.folder / "output.txt").read_text(errors="replace")[-2000:]
            self.stop()
            raise ServerError(f"{self.name} does not start: {err}\n{text}") from err

    def _wait_for_ports(self) -> None:
        end = time.monotonic() + START_S
        for port in (self.place.port, self.place.port + 1):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self._process is None or self._process.poll() is not None:
                        raise ServerError("it ended at once") from None
                    if time.monotonic() > end:
                        raise ServerError(f"nothing on port {port} after {START_S:.0f} s") from None
                    time.sleep(0.1)

    def stop(self) -> None:
        """Ends it and whatever it started: SIGTERM to its own group, SIGKILL if that is not enough.

        Some come with a shell around them that ends first, so the whole group is waited for.
        """
        process, self._process = self._process, None
        if process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
                if _is_gone(process, STOP_S):
                    break
        if self._output is not None:
            self._output.close()
            self._output = None

    def give_to(self, user: str) -> None:
        if os.getuid() == 0:
            for path in (self.place.folder, *self.place.folder.rglob("*")):
                shutil.chown(path, user, user)


def stop_all(servers: Sequence[Server]) -> None:
    """Ends them at once: some take seconds."""
    if servers:
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(Server.stop, servers))


def _is_gone(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Whether a whole process group ends in time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        process.poll()  # Reaps it: a zombie would still count.
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def run_once(command: Sequence[str], folder: Path, text: str = "") -> None:
    """A command that has to succeed, with `text` for its input. Raises ServerError."""
    done = subprocess.run(
        command, cwd=folder, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.strip() or f"{command[-1]} ended with {done.returncode}"
        raise ServerError(said)


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout or done.stderr).strip()


class Ports:
    """Four free ports in a row for each server: plain, direct TLS, and two for administration.

    Below the ephemeral range, so that no client's port collides; never the same twice.
    """

    def __init__(self, first: int = 15222) -> None:
        self._next = first
        self._lock = threading.Lock()

    def take(self) -> int:
        """The first of four. Raises ServerError if there are none left."""
        with self._lock:
            while self._next < _EPHEMERAL:
                first, self._next = self._next, self._next + 10
                if _are_free(first):
                    return first
        raise ServerError(f"no free ports below {_EPHEMERAL}")


_EPHEMERAL = 28_000
_EACH = 4


def _are_free(first: int) -> bool:
    sockets = [socket.socket() for _ in range(_EACH)]
    try:
        for offset, one in enumerate(sockets):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", first + offset))
    except OSError:
        return False
    else:
        return True
    finally:
        for one in sockets:
            one.close()
