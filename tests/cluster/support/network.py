# SPDX-License-Identifier: Apache-2.0
"""Where processes of a cluster live: an address each, and the wires between them that can be cut.

`Namespaces` gives each its own network namespace, joined by this machine as a router, so that a cut
is what a dead switch is: packets vanish and nobody is told. It needs root and Linux's `ip`.
`Loopback` needs nothing and cuts nothing.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FIRST_RULE = 1_000
"""Before the main table, which is looked at with 32,766."""


class NoNetwork(Exception):
    """Networks cannot be cut here; the message is one line that says why."""


@dataclass(frozen=True)
class Place:
    """Where one process lives."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()
    """The words before a command that is to run there."""


class Network(ABC):
    """Places, each with an address of its own, all of whose ports are free."""

    is_cuttable: bool = False
    outside: str = "127.0.0.1"
    """An address of the tests themselves that every place reaches."""

    @abstractmethod
    def place(self, name: str) -> Place:
        """A new place."""

    def cut(self, one: Place, other: Place) -> None:
        """Lets nothing through between two places, either way, until `heal`."""
        raise NoNetwork("networks are not cut on loopback")

    def sever(self, frm: Place, to: Place) -> None:
        """Lets nothing through one way only."""
        raise NoNetwork("networks are not cut on loopback")

    @abstractmethod
    def heal(self) -> None:
        """Takes back every cut."""

    @abstractmethod
    def close(self) -> None:
        """Removes what was made."""


class Loopback(Network):
    """Addresses of 127/8; nothing there is anybody else's."""

    def __init__(self) -> None:
        self._base = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}"
        self._next = random.randint(1, 40)

    def place(self, name: str) -> Place:
        self._next += 1
        return Place(name, f"{self._base}.{self._next}")

    def heal(self) -> None:
        """Nothing was cut."""

    def close(self) -> None:
        """Nothing was made."""


class Namespaces(Network):
    """A namespace and a wire to this machine for each place; `NoNetwork` where that cannot be."""

    is_cuttable = True

    def __init__(self) -> None:
        reason = why_not()
        if reason:
            raise NoNetwork(reason)
        self._tag = f"{os.getpid() % 100_000:x}{random.randint(0, 255):02x}"
        self._second = _unused()
        self._count = 0
        self._spaces: list[str] = []
        self._wires: list[str] = []
        self._rules: list[tuple[str, ...]] = []
        self._forwarded = FORWARD.read_text()
        FORWARD.write_text("1")
        # What every place reaches must not go with the first wire.
        self.outside = f"10.{self._second}.0.1"
        self._dummy = f"ad{self._tag}"
        _ip("link", "add", self._dummy, "type", "bridge")
        _ip("address", "add", f"{self.outside}/32", "dev", self._dummy)
        _ip("link", "set", self._dummy, "up")

    def place(self, name: str) -> Place:
        self._count += 1
        number = self._count
        space, wire = f"antiphon-{self._tag}-{number}", f"av{self._tag}{number}"
        router, address = (f"10.{self._second}.{number}.{last}" for last in (1, 2))
        _ip("netns", "add", space)
        self._spaces.append(space)
        _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._wires.append(wire)
        _ip("address", "add", f"{router}/24", "dev", wire)
        _ip("link", "set", wire, "up")
        _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "route", "add", "default", "via", router)
        return Place(name, address, ("ip", "netns", "exec", space))

    def sever(self, frm: Place, to: Place) -> None:
        # A route of type blackhole drops in silence what is forwarded (ip-route(8)).
        rule = ("from", frm.address, "to", to.address, "blackhole")
        priority = str(FIRST_RULE + len(self._rules))
        _ip("rule", "add", "priority", priority, *rule)
        self._rules.append(("priority", priority, *rule))

    def cut(self, one: Place, other: Place) -> None:
        self.sever(one, other)
        self.sever(other, one)

    def heal(self) -> None:
        while self._rules:
            _ip("rule", "delete", *self._rules.pop())

    def close(self) -> None:
        self.heal()
        for wire in self._wires:
            _ip("link", "delete", wire)
        for space in self._spaces:
            _ip("netns", "delete", space)
        _ip("link", "delete", self._dummy)
        self._wires, self._spaces = [], []
        FORWARD.write_text(self._forwarded)


def why_not() -> str:
    """Why there can be no namespaces here, in one line; empty where there can."""
    if shutil.which("ip") is None:
        return "network cuts need the command ip (iproute2): install it"
    if os.geteuid() != 0:
        return "network cuts need root, for network namespaces: run these tests as root"
    name = f"antiphon-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"network cuts need network namespaces: ip netns add: {done.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


def _unused() -> int:
    """A second octet below 10/8 of which this machine has no address: another run may have some."""
    listed = subprocess.run(
        ["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True
    )
    taken = set(re.findall(r"inet 10\.(\d+)\.", listed.stdout))
    free = [octet for octet in range(130, 251) if str(octet) not in taken]
    if not free:
        raise NoNetwork("network cuts need a free network below 10.130/16 to 10.250/16")
    return random.choice(free)


def _ip(*words: str) -> None:
    """Runs `ip`; raises `NoNetwork` with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoNetwork(f"ip {' '.join(words)}: {done.stderr.strip()}")
