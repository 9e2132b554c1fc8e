# SPDX-License-Identifier: Apache-2.0
"""The servers with everything of both sides archived: ours with inbox and search as well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, NotRequired, TypedDict

from bench.accounts import DOMAIN, PASSWORD, Accounts
from bench.database import Database
from bench.ours import Antiphon
from bench.rivals import Ejabberd, EjabberdDefault, Prosody, ProsodyDefault
from bench.server import Server, ServerError, run_once

KEYSPACE = "bench"
FILL_S = 3600.0
USERS = 10_000
"""Of a store that was filled before."""


class Filled(TypedDict):
    """What the filling of a store tells."""

    messages: int
    seconds: float
    cpu_s: float
    grown_bytes: NotRequired[int]
    """On the disk; not the program's to tell."""


class ProsodyArchive(Prosody):
    """Into files, the cheapest that Prosody has; nobody waits for the disk."""

    modules = f"{Prosody.modules} mam"
    extra = 'default_archive_policy = true; archive_expires_after = "never"'


class EjabberdArchive(Ejabberd):
    """Into Mnesia, its default."""

    extra = "  mod_mam: {default: always}"


class ProsodyArchiveDefault(ProsodyArchive):
    """The same with the collector that it comes with."""

    name = ProsodyDefault.name
    label = ProsodyDefault.label
    tuning = ProsodyDefault.tuning
    is_default = True


class EjabberdArchiveDefault(EjabberdArchive):
    """The same with schedulers that spin."""

    name = EjabberdDefault.name
    label = EjabberdDefault.label
    tuning = EjabberdDefault.tuning
    is_default = True


class AntiphonUnkept(Antiphon):
    """Without an archive, beside the same with one."""

    name = "antiphon-unkept"
    label = "Antiphon, no archive"


class AntiphonArchive(Antiphon):
    """Into SQLite, with inbox and full text, each message synced before it is acknowledged."""

    archive = 'enabled = true\ndefault = "always"\ninbox = true'

    is_apart: ClassVar[bool] = False
    """Whether its store is another server's."""

    @property
    def data(self) -> Path:
        """The folder of its store."""
        return self.place.folder / "data"

    def fill(self, program: str, words: str, messages: int) -> Filled:
        """Messages into the archives of the accounts that `prepare` made. Raises ServerError."""
        return _fill(program, "sqlite", str(self.data), str(messages), str(USERS), words)

    def size_bytes(self) -> int:
        """What lies on the disk, while the server does not run."""
        return sum(path.stat().st_size for path in self.data.rglob("*") if path.is_file())


class AntiphonCassandra(AntiphonArchive):
    """Into a Cassandra of the run's own."""

    is_apart = True
    ring: ClassVar[Database | None] = None

    @property
    def _ring(self) -> Database:
        if self.ring is None:
            raise ServerError("there is no Cassandra")
        return self.ring

    @property
    def database(self) -> int:
        return self._ring.pid

    @property
    def keyspace(self) -> str:
        """One for each server that was made."""
        return f"{KEYSPACE}_{self.place.port}"

    def storage(self) -> str:
        return (
            '[storage]\nbackend = "cassandra"\n[storage.cassandra]\n'
            f'contact_points = ["{self._ring.contact_point}"]\nkeyspace = "{self.keyspace}"\n'
        )

    def populate_store(self, accounts: Accounts) -> None:
        """All keys are derived here, 5 ms each, except where one user will log in."""
        self._antiphon("migrate")
        names = accounts.names if len(accounts.names) < USERS else accounts.names[:1]
        self._antiphon("account", "import", "-", lines=names)

    def _antiphon(self, *words: str, lines: list[str] | None = None) -> None:
        text = "".join(f"{name}@{DOMAIN},{PASSWORD}\n" for name in lines or ())
        run_once([sys.executable, "-m", "antiphon", *words], self.place.folder, text)

    def fill(self, program: str, words: str, messages: int) -> Filled:
        point = self._ring.contact_point
        return _fill(program, "cassandra", point, self.keyspace, str(messages), str(USERS), words)

    def size_bytes(self) -> int:
        return self._ring.size_bytes(self.keyspace)


def _fill(program: str, *words: str) -> Filled:
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, check=False, timeout=FILL_S
        )
    except subprocess.TimeoutExpired as err:
        raise ServerError(f"the store is not full after {FILL_S:.0f} s") from err
    if done.returncode != 0:
        raise ServerError(f"the store is not filled: {' '.join(done.stderr.split())[:300]}")
    filled: Filled = json.loads(done.stdout)
    return filled


ARCHIVES: dict[str, type[Server]] = {
    kind.name: kind
    for kind in (ProsodyArchive, EjabberdArchive, ProsodyArchiveDefault, EjabberdArchiveDefault)
}
"""The rivals', by the name of the server that has none."""
