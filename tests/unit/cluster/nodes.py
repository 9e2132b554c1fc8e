# SPDX-License-Identifier: Apache-2.0
"""Nodes in memory behind real control ports, with certificates of one authority."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from antiphon.cluster.api import Health, Material, Outlook
from antiphon.cluster.control import ControlPort
from antiphon.cluster.remote import Remote
from antiphon.cluster.tls import read
from antiphon.config.clustered import ClusterTls
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid
from tests.support.certs import Authority


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tls(authority: Authority, node: str) -> ClusterTls:
    pair = authority.server(node)
    return ClusterTls(ca=str(authority.ca), certificate=str(pair.certificate), key=str(pair.key))


def status(node: str, members: Mapping[str, str], **more: object) -> dict[str, object]:
    """A node's document; `members` are control addresses by name."""
    return {
        "node": node,
        "incarnation": 1 + list(members).index(node) if node in members else 0,
        "stage": "in",
        "leader": 1,
        "epoch": 7,
        "is_frozen": False,
        "lease_left_ms": 8_500,
        "links_up": len(members) - 1,
        "members": [
            {"id": name, "incarnation": n, "zone": None, "version": "0.1.0", "state": "up",
             "relay": "127.0.0.1:1", "control": address}
            for n, (name, address) in enumerate(members.items(), 1)
        ],
        "shards": {"all": 4096, "served": 4096 // max(1, len(members)), "coming": 0, "going": 0,
                   "by_node": {name: 4096 // max(1, len(members)) for name in members}},
        "sessions": 10,
        "proxies": 3,
        "peers": [],
        "handovers": {"released": 1, "taken_clean": 2, "taken_unclean": 3, "dropped": 4},
        "refused_frames": 0,
        "deduplicated": 0,
        "etcd": {"endpoint": "e:1", "calls": 9, "failures": 0, "last_contact_ms": 100},
        **more,
    }  # fmt: skip


@dataclass
class Fake:
    """A node: what it was asked, and answers by home."""

    name: str
    members: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    more: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, object]] = field(default_factory=list)
    problems: tuple[str, ...] = ()
    is_draining: bool = False
    outlook: Outlook | None = field(default_factory=lambda: Outlook(7, 1300, 1400, False))
    values: dict[str, object] = field(default_factory=dict)

    def health(self) -> Health:
        return Health(node=self.name, incarnation=7, version="1", state="ready", is_ready=True)

    def status(self) -> str:
        return json.dumps(status(self.name, self.members, **self.more))

    def home(self, jid: Jid) -> str | None:
        return self.homes.get(str(jid.bare), self.name) or None

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        self.asked.append((command, dict(arguments)))
        found = self.values.get(command)
        if isinstance(found, Exception):
            raise found
        return found

    async def call_here(self, operation: str, *arguments: object) -> object:
        self.asked.append((operation, arguments))
        if operation == "stall":
            await asyncio.sleep(30)
        if operation == "nonsense":
            raise ValueError("the core has no operation 'nonsense'")
        found = self.values.get(operation)
        if isinstance(found, StanzaError):
            raise found
        return found

    def drain(self) -> bool:
        was, self.is_draining = self.is_draining, True
        return was

    def stay(self) -> bool | None:
        was, self.is_draining = self.is_draining, False
        return was

    def rebalance(self) -> Outlook | None:
        self.asked.append(("rebalance", None))
        return self.outlook

    async def reload(self) -> tuple[str, ...]:
        return self.problems

    async def set_log_level(self, level: str) -> str:
        if level not in ("debug", "info"):
            raise ValueError(f'"{level}" is no level')
        return "info"


@dataclass
class Nodes:
    """Open ports of some fakes, each knowing all of them."""

    folder: Path
    fakes: dict[str, Fake] = field(default_factory=dict)
    ports: dict[str, ControlPort] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    remotes: list[Remote] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "ca")

    def material(self, node: str, authority: Authority | None = None) -> Material:
        return read(tls(authority or self.authority, node))

    async def open(self, *names: str) -> None:
        for name in names:
            self.members[name] = f"127.0.0.1:{free_port()}"
            self.fakes[name] = Fake(name, self.members)
        for name in names:
            files = tls(self.authority, name)
            self.ports[name] = ControlPort(self.fakes[name], files, self.members[name])
            await self.ports[name].open()

    def remote(
        self, to: str, *, by: str = "a", meaning: str | None = None, ca: Authority | None = None
    ) -> Remote:
        """A way to a node with the certificate of another."""
        made = Remote(meaning or to, self.members[to], self.material(by, ca))
        self.remotes.append(made)
        return made

    async def close(self) -> None:
        for remote in self.remotes:
            await remote.close()
        for port in self.ports.values():
            await port.close(0)
