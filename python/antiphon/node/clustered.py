# SPDX-License-Identifier: Apache-2.0
"""A node's part in its cluster: the port of control calls, handing over at a stop, readiness."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from msgspec import Struct

from antiphon import __version__
from antiphon.admin.protocol import Runner
from antiphon.cluster.api import Control, ControlError, Health, Outlook, open_control
from antiphon.cluster.status import ClusterStatus, read
from antiphon.cluster.tls import problems
from antiphon.config.load import Loaded
from antiphon.config.schema import Config
from antiphon.node.bridge import Bridge
from antiphon.xmpp.jid import Jid

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_SAY_S = 5.0


class ClusterCore(Protocol):
    """The part of the core that a cluster needs; see antiphon._core.Core."""

    def cluster_status(self) -> str:
        """See there, as of the others."""

    def cluster_home(self, jid: str) -> str | None:
        """Where an entity lives."""

    def cluster_drain(self) -> None:
        """Begins to give everything away."""

    def cluster_stay(self) -> bool:
        """Takes that back."""

    def cluster_rebalance(self) -> tuple[int, int, int, bool] | None:
        """Has the planner look again; see there."""


class Hooks(Struct, frozen=True, kw_only=True):
    """What the node does when it is asked by a control call."""

    state: Callable[[], str]
    """starting, ready, draining or stopped."""
    is_ready: Callable[[], bool]
    drains: Callable[[], bool]
    """It gives everything away from now on; whether it did already."""
    stays: Callable[[], bool | None]
    """It takes clients again; whether it did not, None where the node ends."""
    reload: Callable[[], Awaitable[tuple[str, ...]]]
    set_log_level: Callable[[str], Awaitable[str]]


class Neighbour:
    """A node among others, while its core runs; see `antiphon.cluster.api.Served`."""

    def __init__(
        self, config: Config, core: ClusterCore, bridge: Bridge, runner: Runner, hooks: Hooks
    ) -> None:
        self._config = config
        self._core = core
        self._bridge = bridge
        self._runner = runner
        self._hooks = hooks
        self._control: Control | None = None

    async def open(self) -> None:
        """Opens the control port, and the way to entities of other nodes. Raises ControlError."""
        self._control = await open_control(self._config, self)
        self._bridge.reach(self._control.elsewhere)

    async def joined(self, is_over: Callable[[], bool]) -> None:
        """Waits until the node is in, or until `is_over`. Raises ControlError if it cannot be."""
        loop = asyncio.get_running_loop()
        said = loop.time()
        while not is_over():
            now = self.view()
            if now is not None and now.is_in:
                return
            if now is not None and now.stage_word == "failed":
                raise ControlError(now.stage_reason or "the node cannot join its cluster")
            if loop.time() - said >= _SAY_S:
                said = loop.time()
                reason = now.stage_reason if now is not None else ""
                log.info("waiting for the cluster", extra={"reason": reason})
            await asyncio.sleep(_LOOK_S)

    def renew(self) -> None:
        """Takes over new certificates. Raises ControlError; then the old ones stay."""
        if self._control is not None:
            self._control.renew()

    async def close(self, grace_s: float) -> None:
        """Ends the port; calls under way get so long."""
        if self._control is not None:
            await self._control.close(grace_s)

    async def hand_over(self, longest_s: float) -> None:
        """Gives away what this node owns, and waits until the others have it, or for no longer
        than that; not where there is nobody to take it.

        While etcd is silent nobody can take anything. The node serves on meanwhile: etcd may be
        back in time, and its users have no other home until it is.
        """
        before = self.view()
        if before is None or not before.is_in:
            return
        self._core.cluster_drain()
        loop = asyncio.get_running_loop()
        until, said = loop.time() + longest_s, loop.time()
        while (now := self.view()) is not None and now.is_in and _holds(now):
            if not _has_takers(now):
                log.info("nobody to hand over to", extra=_figures(now))
                return
            if loop.time() >= until:
                log.warning("shards not handed over in time", extra=_figures(now))
                return
            if loop.time() - said >= _SAY_S:
                said = loop.time()
                if now.is_frozen:
                    log.warning("handing over waits for etcd to answer", extra=_figures(now))
                else:
                    log.info("handing over", extra=_figures(now))
            await asyncio.sleep(_LOOK_S)
        log.info("shards handed over", extra={"shards": before.shards.served})

    def view(self) -> ClusterStatus | None:
        """What the core tells; None if that does not read."""
        try:
            return read(self._core.cluster_status())
        except ValueError as error:
            log.warning("cluster status unreadable", extra={"problem": str(error)})
            return None

    @property
    def name(self) -> str:
        """See Served."""
        return self._config.node.name

    def health(self) -> Health:
        """See Served."""
        view = self.view()
        return Health(
            node=self.name,
            incarnation=view.incarnation if view is not None else 0,
            version=__version__,
            state=self._hooks.state(),
            is_ready=self._hooks.is_ready(),
        )

    def status(self) -> str:
        """See Served."""
        return self._core.cluster_status()

    def home(self, jid: Jid) -> str | None:
        """See Served."""
        return self._core.cluster_home(str(jid.bare))

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """See Served."""
        return await self._runner.run(command, arguments)

    async def call_here(self, operation: str, *arguments: object) -> object:
        """See Served."""
        return await self._bridge.call_here(operation, *arguments)

    def drain(self) -> bool:
        """See Served."""
        had_begun = self._hooks.drains()
        if not had_begun:
            log.info("drain asked for")
        self._core.cluster_drain()
        return had_begun

    def stay(self) -> bool | None:
        """See Served."""
        was_draining = self._hooks.stays()
        if was_draining is None or not self._core.cluster_stay():
            return None
        if was_draining:
            log.info("drain taken back")
        return was_draining

    def rebalance(self) -> Outlook | None:
        """See Served."""
        found = self._core.cluster_rebalance()
        return None if found is None else Outlook(*found)

    async def reload(self) -> tuple[str, ...]:
        """See Served."""
        return await self._hooks.reload()

    async def set_log_level(self, level: str) -> str:
        """See Served."""
        return await self._hooks.set_log_level(level)


def refuse_bad_certificate(loaded: Loaded) -> None:
    """Raises ControlError, with file, line and key, for a certificate that no node would take."""
    for path, text, is_warning in problems(loaded.config):
        if is_warning:
            log.warning("certificate of this node ends soon", extra={"problem": text})
        else:
            raise ControlError(str(loaded.origin.problem(path, text)))


def _holds(view: ClusterStatus) -> bool:
    return view.shards.served + view.shards.coming + view.shards.going > 0


def _has_takers(view: ClusterStatus) -> bool:
    return any(one.state == "up" and one.id != view.node for one in view.members)


def _figures(view: ClusterStatus) -> dict[str, object]:
    return {"served": view.shards.served, "going": view.shards.going, "sessions": view.sessions}
