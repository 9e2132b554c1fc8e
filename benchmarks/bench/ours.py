# SPDX-License-Identifier: Apache-2.0
"""Antiphon under load, with one worker or with two."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import ClassVar

from bench.accounts import DOMAIN, ITERATIONS, PASSWORD, Accounts
from bench.server import Server, ServerError, output_of, run_once


class Antiphon(Server):
    """Ours, with one worker thread: figures are for one core."""

    name = "antiphon"
    label = "Antiphon"
    tuning = "worker_threads = 1"
    is_rival = False
    workers: ClassVar[int] = 1
    archive: ClassVar[str] = "enabled = false"
    """The table of the configuration."""

    @classmethod
    def version(cls) -> str:
        return output_of(sys.executable, "-m", "antiphon", "--version").split()[-1]

    def prepare(self, accounts: Accounts) -> None:
        place = self.place
        (place.folder / "antiphon.toml").write_text(
            f"""domains = ["{DOMAIN}"]
data_dir = "data"
[node]
name = "bench"
worker_threads = {self.workers}
[tls]
certificate = "{place.certificate}"
key = "{place.key}"
[[listener]]
kind = "c2s"
address = "{self.plain}"
tls = "none"
[[listener]]
kind = "c2s"
address = "{self.direct}"
tls = "direct"
[[listener]]
kind = "http"
address = "{self.administration}"
tls = "none"
[auth]
mechanisms = ["SCRAM-SHA-256", "PLAIN"]
scram_iterations = {ITERATIONS}
allow_plaintext = true
[log]
level = "warning"
[limits]
connections_per_address = 0
auth_failures_per_minute = 0
sessions_per_user = 0
stanzas_per_second = 0
bytes_per_second = 0
[archive]
{self.archive}
{self.storage()}"""
        )
        self.populate_store(accounts)

    def storage(self) -> str:
        """Tables of the configuration that say where everything is kept; none: SQLite."""
        return ""

    def populate_store(self, accounts: Accounts) -> None:
        """Accounts and rosters, before the node starts. Raises ServerError."""
        folder = self.place.folder
        command = [sys.executable, "-m", "antiphon", "account", "import", "-"]
        run_once(command, folder, f"{accounts.names[0]}@{DOMAIN},{PASSWORD}\n")
        try:
            _fill(folder / "data" / "antiphon.db", accounts)
        except sqlite3.Error as err:
            raise ServerError(f"accounts are not written: {err}") from err

    def command(self) -> list[str]:
        return [sys.executable, "-m", "antiphon", "serve"]


class AntiphonOne(Antiphon):
    """One worker, beside the same with two."""

    name = "antiphon-one"
    label = "Antiphon, one worker"


class AntiphonTwo(Antiphon):
    """Two workers."""

    name = "antiphon-two"
    label = "Antiphon, two workers"
    tuning = "worker_threads = 2"
    workers = 2


# `to` and `from`: rust/store/src/sqlite/apply.rs, state_bits.
_BOTH = 3


def _fill(database: Path, accounts: Accounts) -> None:
    """All accounts like the first, and rosters, by the schema of rust/store.

    To derive thousands of keys and to subscribe over the wire would take longer than the run; one
    salt for all is what the rivals get too. Raises sqlite3.Error if the schema is another one.
    """
    first, *others = accounts.names
    db = sqlite3.connect(database)
    with db:
        db.executemany(
            "INSERT INTO owner (domain, localpart, created_ms) VALUES (?, ?, 0)",
            [(DOMAIN, name) for name in others],
        )
        owners = dict(db.execute("SELECT localpart, id FROM owner WHERE domain = ?", (DOMAIN,)))
        db.executemany(
            "INSERT INTO scram_key (owner, hash, iterations, salt, stored_key, server_key) "
            "SELECT ?, hash, iterations, salt, stored_key, server_key "
            "FROM scram_key WHERE owner = ?",
            [(owners[name], owners[first]) for name in others],
        )
        db.executemany(
            "INSERT INTO roster (owner, jid, name, group_names, state) VALUES (?, ?, '', '[]', ?)",
            [
                (owners[name], f"{contact}@{DOMAIN}", _BOTH)
                for name in accounts.names
                for contact in accounts.contacts(name)
            ],
        )
        db.execute(
            "UPDATE owner SET roster_version = 1 WHERE id IN (SELECT DISTINCT owner FROM roster)"
        )
    db.close()
