# SPDX-License-Identifier: Apache-2.0
"""The certificates of a cluster: one authority, and for each node one that bears its name."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from support.certs import Authority, KeyPair


class ClusterAuthority(Authority):
    """As the tests' own authority; its leaves name nodes."""

    def __init__(self, folder: Path, name: str = "Antiphon test cluster") -> None:
        super().__init__(folder, name)

    def node(self, name: str, *, label: str | None = None, days: int = 20) -> KeyPair:
        """A certificate that names a node as DNS name, as links between nodes ask for.

        With `days` below 0 it has ended already.
        """
        return self._issue(label or name, [x509.DNSName(name)], days)
