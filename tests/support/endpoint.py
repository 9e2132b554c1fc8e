# SPDX-License-Identifier: Apache-2.0
"""Where a client connects to, and as whom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects to, and how."""

    domain: str
    host: str
    port: int
    kind: str = "starttls"
    """starttls, direct, plain (no TLS at all) or ws."""
    ca: Path | None = None
    url: str = ""
    alpn: tuple[str, ...] = ("xmpp-client",)
    sni: str | None = None
    torn: int | None = None
    """Tear what is written at places that this seed chooses; see `proxy`."""


@dataclass(frozen=True)
class Account:
    """An account that exists on the server under test."""

    jid: str
    password: str

    @property
    def user(self) -> str:
        """The localpart."""
        return self.jid.partition("@")[0]

    @property
    def domain(self) -> str:
        """The domainpart."""
        return self.jid.partition("@")[2]
