# SPDX-License-Identifier: Apache-2.0
"""What a node gives to its control calls and gets from them, without gRPC.

gRPC costs a node of a cluster some megabytes and a start some tenths of a second, so a node that is
alone never loads it: `open_control` does.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Protocol, cast

from msgspec import Struct

from antiphon.cluster.status import ClusterStatus, EtcdMember, Member
from antiphon.config.clustered import Etcd
from antiphon.config.schema import Config
from antiphon.xmpp.jid import Jid


class ControlError(Exception):
    """A control call, or the port for them, that cannot be; one line for the operator.

    `is_unreached`: nobody was asked, so nothing was done.
    """

    def __init__(self, text: str, *, is_unreached: bool = False) -> None:
        super().__init__(text)
        self.is_unreached = is_unreached


class Material(Struct, frozen=True, kw_only=True):
    """The contents of the files of `[cluster.tls]`: whom to believe, what to show."""

    ca: bytes
    certificate: bytes
    key: bytes


class Health(Struct, frozen=True, kw_only=True):
    """Whether a node takes clients. `state`: starting, ready, draining or stopped."""

    node: str
    incarnation: int
    version: str
    state: str
    is_ready: bool


class Outlook(Struct, frozen=True):
    """What the planner finds to do, in shards."""

    moving: int
    """On their way, or not where they shall be."""
    least: int
    most: int
    """The smallest and the largest share of a node; `most` 0: its version does not tell."""
    is_waiting: bool
    """Nothing is planned for now: etcd was away a moment ago, or is."""


class Served(Protocol):
    """The node, as its control calls see it; all on its loop."""

    @property
    def name(self) -> str:
        """The node's name."""

    def health(self) -> Health:
        """See Health."""

    def status(self) -> str:
        """JSON of `antiphon.cluster.status`."""

    def home(self, jid: Jid) -> str | None:
        """The node where an entity lives; None while nobody owns it."""

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """An administrative command; its result in JSON's types. Raises StanzaError."""

    async def call_here(self, operation: str, *arguments: object) -> object:
        """An operation of this node's own core. Raises StanzaError."""

    def drain(self) -> bool:
        """Begins to give everything away; whether that had begun before."""

    def stay(self) -> bool | None:
        """Takes a drain back; whether there was one, None where the node ends."""

    def rebalance(self) -> Outlook | None:
        """Has the planner plan anew; what there is to move, None where this node does not plan."""

    async def reload(self) -> tuple[str, ...]:
        """As SIGHUP; what is wrong with the new configuration, nothing where it was taken."""

    async def set_log_level(self, level: str) -> str:
        """The least level that is logged; the one before. Raises ValueError for none."""


class Elsewhere(Protocol):
    """The way to what lives on other nodes."""

    def is_away(self, operation: str, arguments: tuple[object, ...]) -> bool:
        """Whether an operation is for an entity that is not here, or for all nodes."""

    async def call(self, operation: str, arguments: tuple[object, ...]) -> object:
        """Runs an operation where its entity lives, be that here meanwhile, or on all nodes.
        Raises StanzaError."""


class Calls(Protocol):
    """Control calls to one node, as the command line makes them; see `remote.Remote`."""

    async def close(self) -> None:
        """Ends the connection."""

    async def health(self, timeout_s: float) -> Health:
        """Whether it takes clients. This and all others raise ControlError."""

    async def status(self, timeout_s: float) -> tuple[ClusterStatus, object]:
        """What it knows of the cluster, read and as JSON's types."""

    async def drain(self, timeout_s: float) -> bool:
        """Has it give everything away; whether that had begun before."""

    async def stay(self, timeout_s: float) -> bool:
        """Has it take a drain back; whether there was one."""

    async def rebalance(self, timeout_s: float) -> Outlook:
        """Has its planner plan anew; what there is to move."""

    async def reload(self, timeout_s: float) -> tuple[str, ...]:
        """Has it read its configuration again; why it refuses that, nothing where it does not."""

    async def set_log_level(self, level: str, timeout_s: float) -> str:
        """The least level that it logs; the one before."""

    async def run(self, command: str, arguments: Mapping[str, object], timeout_s: float) -> object:
        """An administrative command; its result in JSON's types. Raises StanzaError too."""


class Control(Protocol):
    """The open port of control calls, and the way to those of other nodes."""

    elsewhere: Elsewhere

    def renew(self) -> None:
        """Reads the certificates again; with an error the old ones stay. Raises ControlError."""

    async def close(self, grace_s: float) -> None:
        """Ends the port; calls under way get so long."""


async def open_control(config: Config, served: Served) -> Control:
    """Listens at the control port. Raises ControlError."""
    opened = cast(
        "Callable[[Config, Served], Awaitable[Control]]", _loaded("control").__dict__["opened"]
    )
    return await opened(config, served)


def connect(node: str, address: str, material: Material) -> Calls:
    """A way to the control port of a node, which must prove to be it; connects when asked."""
    made = cast("Callable[[str, str, Material], Calls]", _loaded("remote").__dict__["Remote"])
    return made(node, address, material)


async def ask_etcd(options: Etcd) -> tuple[list[EtcdMember], list[Member], str | None]:
    """(what its members say, the registered nodes, why these could not be read)."""
    ask = cast(
        "Callable[[Etcd], Awaitable[tuple[list[EtcdMember], list[Member], str | None]]]",
        _loaded("etcd").__dict__["ask"],
    )
    return await ask(options)


def _loaded(name: str) -> ModuleType:
    # gRPC's own lines on standard error are no events of ours; what fails is told by the calls.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return importlib.import_module(f"antiphon.cluster.{name}")
