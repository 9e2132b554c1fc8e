# SPDX-License-Identifier: Apache-2.0
"""A server that somebody else runs: an address, a domain and a file of accounts."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from .endpoint import Account
from .server import Server, ServerFailed


class External(Server):
    """Takes accounts from a file of `jid,password` lines; starts and stops nothing."""

    kind = "external"
    accounts_file: Path | None = None

    def start(self) -> None:
        """Reads the accounts."""
        if self.accounts_file is None:
            raise ServerFailed("--server HOST:PORT needs --accounts FILE with lines jid,password")
        for line in self.accounts_file.read_text().splitlines():
            jid, _, password = line.strip().partition(",")
            if "@" in jid:
                account = Account(jid, password)
                self._pool.setdefault(account.domain, deque()).append(account)

    def create(self, accounts: list[Account]) -> None:
        """Not possible: the file has run dry."""
        raise ServerFailed(f"the file of accounts has none left for {accounts[0].domain}")
