# SPDX-License-Identifier: Apache-2.0
"""The node that is attacked: started for each kind, its processor time read."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.antiphon import Antiphon
from support.certs import Authority
from support.server import Server, Settings, make_ports

from .peers import ADDRESS, Stage


@contextmanager
def staged(settings: Settings, accounts: int) -> Iterator[Stage]:
    """A fresh node with so many accounts; it is stopped afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        authority = Authority(place / "ca")
        server = Antiphon(place, settings, ADDRESS, make_ports(ADDRESS), authority)
        try:
            server.start()
            yield Stage.on(server, authority, accounts)
        finally:
            server.stop()


def processor_ms(server: Server) -> float:
    """Processor time of the node's process, to the nanosecond, with threads that have ended."""
    assert server.process is not None
    # What clock_getcpuclockid(3) gives on Linux, and Python has no name for.
    return time.clock_gettime_ns((~server.process.pid << 3) | 2) / 1e6


def idle_share(server: Server) -> float:
    """What the node spends on its own, ms a second: to be left out."""
    before, pause_s = processor_ms(server), 2.0
    time.sleep(pause_s)
    return (processor_ms(server) - before) / pause_s


def remember_proofs(stage: Stage) -> None:
    """Logs everybody in once: the node remembers the proof of a last login by PLAIN."""
    for _ in stage.accounts:
        stage.passing().session().sock.close()
