# SPDX-License-Identifier: Apache-2.0
"""One Cassandra process: started, asked, frozen, killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from time import monotonic, sleep

from . import probe
from .install import CassandraFailed
from .settings import Place

START_S = 240.0
STOP_S = 40.0
LOG_BYTES = 6000

# Tables that every ring of that size keeps on all its nodes: a read of the whole table at ALL
# succeeds only where the node that is asked knows the others and finds them up.
EVERYWHERE = {
    1: "system.local",
    2: "system_traces.sessions",
    3: "system_distributed.view_build_status",
}


class Node:
    """A node of a ring. What it keeps is below its folder: data, log, configuration, pid."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its address."""
        return self.place.address

    @property
    def contact_point(self) -> str:
        """`ADDRESS:PORT` for CQL."""
        return f"{self.address}:{self.place.ports.cql}"

    @property
    def log(self) -> Path:
        """What the process wrote."""
        return self.place.folder / "log"

    def log_tail(self) -> str:
        """The end of that."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - LOG_BYTES, 0))
            return log.read().decode(errors="replace")

    @property
    def pid(self) -> int | None:
        """The process while it lives, frozen or not, whoever started it.

        The file holds the time of its start too, so that another's process with the same number
        is never taken for it.
        """
        if self._process is not None:
            self._process.poll()  # takes leave of one that has ended
        try:
            pid, born = (self.place.folder / "pid").read_text().split()
            return int(pid) if _birth(int(pid)) == born else None
        except (OSError, ValueError):
            return None

    def launch(self, *, outlive: bool) -> None:
        """Starts the process and does not wait; nothing where it runs.

        Without `outlive` the kernel kills it when the thread ends that called this, as far as
        that is the main thread.
        """
        if self.pid is not None:
            return
        self.place.write()
        command = self.place.command()
        setpriv = shutil.which("setpriv")
        is_main = threading.current_thread() is threading.main_thread()
        if setpriv is not None and is_main and not outlive:
            command = [setpriv, "--pdeathsig", "KILL", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.place.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the terminal is not for it
            )
        (self.place.folder / "pid").write_text(f"{self._process.pid} {_birth(self._process.pid)}\n")

    def answers(self) -> bool:
        """Whether it serves CQL."""
        return self._reads("system.local", probe.ONE)

    def sees_all(self) -> bool:
        """Whether it knows the whole ring and finds every node up."""
        nodes = self.place.settings.nodes
        return self._reads(EVERYWHERE[nodes], probe.ALL if nodes > 1 else probe.ONE)

    def _reads(self, table: str, consistency: int) -> bool:
        where = (self.address, self.place.ports.cql)
        secured = self.place.settings.secured
        ca = secured.ca if secured else None
        return probe.succeeds(where, f"SELECT * FROM {table}", consistency, ca)

    def wait(self, *, whole: bool = False, timeout_s: float = START_S) -> None:
        """Waits until it answers; with `whole`, until it also sees every other node up.

        Raises `CassandraFailed` with the end of its log when it ends or takes too long.
        """
        deadline = monotonic() + timeout_s
        while not (self.answers() and (not whole or self.sees_all())):
            if self.pid is None:
                raise CassandraFailed(f"{self.contact_point} ended at start:\n{self.log_tail()}")
            if monotonic() > deadline:
                what = "does not see the whole ring" if self.answers() else "does not answer"
                raise CassandraFailed(f"{self.contact_point} {what}:\n{self.log_tail()}")
            sleep(0.1)

    def kill(self) -> None:
        """Ends it at once, frozen or not (SIGKILL)."""
        self._send(signal.SIGKILL)
        self._wait_gone(STOP_S)

    def pause(self) -> None:
        """Freezes it (SIGSTOP): its connections stay open and nothing answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on (SIGCONT)."""
        self._send(signal.SIGCONT)

    def terminate(self) -> None:
        """Asks it to end in its own time; `stop` waits."""
        self.resume()
        self._send(signal.SIGTERM)

    def stop(self) -> None:
        """Ends it in order (about five seconds), or at once where that takes too long."""
        self.terminate()
        if not self._wait_gone(STOP_S):
            self.kill()

    def _send(self, what: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            try:
                os.kill(pid, what)
            except ProcessLookupError:
                return

    def _wait_gone(self, timeout_s: float) -> bool:
        deadline = monotonic() + timeout_s
        while self.pid is not None:
            if monotonic() > deadline:
                return False
            sleep(0.02)
        return True

    def nodetool(self, *words: str, timeout_s: float = 300.0) -> str:
        """What `nodetool` says, such as `nodetool("flush", "antiphon")`.

        Raises `ValueError` without `Settings(jmx=True)`, `CassandraFailed` where it fails.
        """
        if not self.place.jmx:
            raise ValueError("nodetool needs Settings(jmx=True)")
        done = subprocess.run(
            self.place.nodetool(list(words)),
            cwd=self.place.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise CassandraFailed(f"nodetool {' '.join(words)} on {self.address}: {said}")
        return done.stdout


def _birth(pid: int) -> str | None:
    """When a process started, in ticks since boot; None for one that waits to be reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
