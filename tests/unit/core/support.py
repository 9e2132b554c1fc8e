# SPDX-License-Identifier: Apache-2.0
"""A core without the rest of the node, and a client of few words for it."""

from __future__ import annotations

import json
import select
import socket
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from antiphon import _core
from antiphon._core import Core
from antiphon.config.core import CORE_MODULES, CoreHandler, CoreHost, core_config
from antiphon.config.schema import Auth, Config, Limits, Listener

needs_library = pytest.mark.skipif(
    not hasattr(_core.Core, "addresses"), reason="the library is not built"
)

HANDLED = CoreHandler(target="host", is_set=False, ns="urn:test", name="q", ordered=False)
Event = tuple[int, int, object, object]


def document(folder: Path, **limits: int) -> str:
    """The core's configuration for `localhost`: c2s without TLS, http, one handler for `urn:test`."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = _core.self_signed(["localhost"])
        certificate.write_text(made[0])
        key.write_text(made[1])
    config = Config(
        data_dir=str(folder / "data"),
        auth=Auth(allow_plaintext=True, scram_iterations=4096),
        listener=(
            Listener(kind="c2s", address="127.0.0.1:0", tls="none"),
            Listener(kind="http", address="127.0.0.1:0"),
        ),
        limits=Limits(**{"stanzas_per_second": 0, "bytes_per_second": 0, **limits}),
    )
    host = CoreHost(domain="localhost", certificate=str(certificate), key=str(key))
    modules = dict.fromkeys(CORE_MODULES, True)
    return msgspec.json.encode(core_config(config, [HANDLED], [host], modules)).decode()


def changed(text: str, change: Callable[[dict[str, object]], None]) -> str:
    """The configuration with a change."""
    parsed = json.loads(text)
    change(parsed)
    return json.dumps(parsed)


def address(core: Core, kind: str) -> tuple[str, int]:
    """Where a listener of that kind is."""
    host, _, port = dict(core.addresses())[kind].rpartition(":")
    return host, int(port)


def wait(core: Core, eventfd: int, kind: int, count: int = 1, timeout_s: float = 10) -> list[Event]:
    """Drains until `count` events of a kind have come; log records are left out."""
    found: list[Event] = []
    while len(found) < count:
        ready, _, _ = select.select([eventfd], [], [], timeout_s)
        assert ready, f"only {len(found)} of {count} events of kind {kind}"
        found += [event for event in core.drain() if event[0] == kind]
    return found


def create(core: Core, eventfd: int, *names: str) -> None:
    """Makes accounts with the password `secret`."""
    core.submit(
        [
            (_core.ACT_CALL, 900 + i, "account.create", (f"{name}@localhost", "secret"))
            for i, name in enumerate(names)
        ]
    )
    wait(core, eventfd, _core.EV_RESULT, len(names))


class Peer:
    """A client over TCP without TLS; every read has a timeout."""

    def __init__(self, core: Core) -> None:
        self.socket = socket.create_connection(address(core, "c2s"), 10)
        self.received = b""

    def send(self, text: str) -> None:
        """Writes."""
        self.socket.sendall(text.encode())

    def until(self, text: str) -> str:
        """Reads until that has come; takes and returns all up to it."""
        mark = text.encode()
        while mark not in self.received:
            octets = self.socket.recv(65_536)
            assert octets, f"closed; waited for {text}, got {self.received[-500:]!r}"
            self.received += octets
        found, _, self.received = self.received.partition(mark)
        return found.decode() + text

    def open(self) -> None:
        """A stream header, up to the features."""
        self.send(
            "<stream:stream xmlns='jabber:client' version='1.0' to='localhost' "
            "xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        self.until("</stream:features>")

    def login(self, name: str) -> Peer:
        """PLAIN, and a resource."""
        self.open()
        proof = b64encode(f"\0{name}\0secret".encode()).decode()
        self.send(
            f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{proof}</auth>"
        )
        self.until("<success")
        self.until(">")
        self.open()
        self.send(
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
            "<resource>r</resource></bind></iq>"
        )
        self.until("</iq>")
        return self

    def close(self) -> None:
        """Cuts the connection."""
        self.socket.close()
