# SPDX-License-Identifier: Apache-2.0
"""The composition root: a configuration becomes a running node."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec

from antiphon import __version__
from antiphon._core import ConfigError, Core, certificate_names
from antiphon.admin.asgi import Gateway
from antiphon.admin.health import Status, View, application, count_answer
from antiphon.admin.protocol import NAME
from antiphon.admin.server import AdminSocket, CommandRunner, SocketTaken
from antiphon.cluster.api import ControlError
from antiphon.commands import CommandContext
from antiphon.config.core import render_core, websocket_url
from antiphon.config.load import Loaded
from antiphon.config.problem import ConfigProblems, choices
from antiphon.config.schema import Config
from antiphon.metrics import names
from antiphon.metrics.export import CountingHandler, Meters
from antiphon.node import log as node_log
from antiphon.node.bridge import Bridge
from antiphon.node.certificate import with_certificates
from antiphon.node.clustered import Hooks, Neighbour, refuse_bad_certificate
from antiphon.node.measure import measure
from antiphon.xep._registry import Assembly, registry

log = logging.getLogger(__name__)

FIXED = ("data_dir", "node", "listener", "storage", "cluster")
"""Keys that a reload cannot change; certificates named there are read again all the same."""
LEVELS = ("debug", "info", "warning", "error")
_WARN_BEFORE_S = 14 * 24 * 3600


class NodeError(Exception):
    """The node cannot start; one line that tells the operator what to do."""


class State(enum.Enum):
    """Where a node is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Node:
    """One node: made of a configuration, started, perhaps reloaded, stopped; on one loop."""

    def __init__(self, loaded: Loaded, load: Callable[[], Loaded]) -> None:
        """`load` reads the configuration again for a reload; it blocks."""
        self.state = State.STARTING
        self._is_ending = False
        self.meters = Meters()
        self.stop_requested = asyncio.Event()
        self._loaded = loaded
        self._load = load
        self._assembly = registry().assemble(loaded.config)
        self._reloading = asyncio.Lock()
        self._core: Core | None = None
        self._bridge: Bridge | None = None
        self._admin: AdminSocket | None = None
        self._neighbour: Neighbour | None = None
        self._certificates: Mapping[str, float] = {}
        self._started_s = time.time()
        self._counting = CountingHandler(self.meters)

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._loaded.config

    @property
    def core(self) -> Core:
        """The core of a node that was started."""
        if self._core is None:
            raise RuntimeError("the node has not started")
        return self._core

    async def start(self) -> None:
        """Opens everything; clients are served when it returns, unless a stop was asked for
        meanwhile. Raises NodeError."""
        logging.getLogger().addHandler(self._counting)
        self._measure()
        for warning in self._loaded.warnings:
            log.warning("configuration doubtful", extra={"problem": str(warning)})
        try:
            if self.config.is_clustered:
                await asyncio.to_thread(refuse_bad_certificate, self._loaded)
            document = await asyncio.to_thread(self._document, self.config, self._assembly)
            self._core = Core(document)
            eventfd = await asyncio.to_thread(self._core.start)
        except (ConfigError, ControlError, OSError) as error:
            raise NodeError(_line(error)) from error
        limits = self.config.http
        gateway = Gateway(
            application(self._view(), self.meters),
            limits.request_seconds,
            functools.partial(count_answer, self.meters),
        )
        self._bridge = Bridge(self._core, self._assembly, http=gateway)
        self._bridge.start(eventfd)
        runner = CommandRunner(self._context, self.meters)
        await self._open(Path(self.config.data_dir) / NAME, runner)
        await self._join()
        if self.stop_requested.is_set():
            return
        self.state = State.READY
        addresses = [f"{kind} {address}" for kind, address in self._core.addresses()]
        log.info("node ready", extra={"node": self.config.node.name, "listeners": addresses})

    async def _open(self, path: Path, runner: CommandRunner) -> None:
        """Opens the ways by which the node is asked. Raises NodeError, everything ended."""
        self._admin = AdminSocket(path, runner)
        try:
            await self._admin.open()
        except (SocketTaken, OSError) as error:
            await self.stop(0)
            raise NodeError(f"cannot open the admin socket {path}: {_line(error)}") from error
        if not self.config.is_clustered or self._bridge is None:
            return
        hooks = Hooks(
            state=lambda: self.state.value,
            is_ready=lambda: self._status().is_ready,
            drains=self._drains,
            stays=self._stays,
            reload=self.try_reload,
            set_log_level=self.set_log_level,
        )
        self._neighbour = Neighbour(self.config, self.core, self._bridge, runner, hooks)
        measure(self.meters, self._neighbour.view)
        try:
            await self._neighbour.open()
        except ControlError as error:
            await self.stop(0)
            raise NodeError(str(error)) from error

    async def _join(self) -> None:
        """Waits for the cluster, as long as nobody stops the node. Raises NodeError."""
        if self._neighbour is None:
            return
        try:
            await self._neighbour.joined(self.stop_requested.is_set)
        except ControlError as error:
            await self.stop(0)
            raise NodeError(str(error)) from error

    async def reload(self) -> bool:
        """Takes over the changed configuration and certificates; False if they were refused.

        A refused one changes nothing. What cannot change while the node runs is kept and named in
        the log.
        """
        return not await self.try_reload()

    async def try_reload(self) -> tuple[str, ...]:
        """As `reload`; gives what is wrong, a line each, nothing where it was taken over."""
        async with self._reloading:
            if self.state is not State.READY:
                return (f"the node is {self.state.value}",)
            try:
                await self._take_over(await asyncio.to_thread(self._load))
            except ConfigProblems as error:
                problems = tuple(str(problem) for problem in error.problems)
            except (ConfigError, ControlError, OSError) as error:
                problems = (_line(error),)
            else:
                self.meters.count(names.RELOADS, "ok")
                log.info("configuration reloaded")
                return ()
            for problem in problems:
                log.error("configuration refused", extra={"problem": problem})
            self.meters.count(names.RELOADS, "refused")
            return problems

    async def set_log_level(self, level: str) -> str:
        """The least level that is logged, until the next reload; the one before.

        Raises ValueError for what is no level, or while the node does not take it.
        """
        was = self.config.log.level
        if level not in LEVELS:
            raise ValueError(f'"{level}" is no level; write {choices(LEVELS)}')
        chosen = msgspec.structs.replace(self.config.log, level=level)
        async with self._reloading:
            config = msgspec.structs.replace(self.config, log=chosen)
            try:
                document = await asyncio.to_thread(self._document, config, self._assembly)
                await asyncio.to_thread(self.core.reload, document)
            except (ConfigError, OSError) as error:
                raise ValueError(_line(error)) from error
            self._loaded = Loaded(config, self._loaded.origin, self._loaded.warnings)
            node_log.configure(config.log)
        log.info("log level set", extra={"to": level, "was": was})
        return was

    async def stop(self, deadline_s: float) -> None:
        """Refuses new clients, lets what is under way finish, ends all streams, commits.

        Takes `deadline_s` for what is under way and as long again for the clients' ends; in a
        cluster `cluster.drain_seconds` before, for handing over.
        """
        if self.state is State.STOPPED:
            return
        is_serving = self.state is not State.STARTING
        self.state, self._is_ending = State.DRAINING, True
        log.info("node draining", extra={"deadline_s": deadline_s})
        if self._core is not None:
            self._core.stop_accepting()
        if self._neighbour is not None and is_serving:
            # Features still answer meanwhile: what lives here yet is served to its end.
            await self._neighbour.hand_over(self.config.cluster.drain_seconds)
        if self._admin is not None:
            await self._admin.close()
        if self._neighbour is not None:
            await self._neighbour.close(deadline_s)
        if self._bridge is not None:
            await self._bridge.close(deadline_s)
        if self._core is not None:
            await asyncio.to_thread(self._core.stop, deadline_s)
        self.state = State.STOPPED
        log.info("node stopped")
        logging.getLogger().removeHandler(self._counting)

    async def _take_over(self, loaded: Loaded) -> None:
        kept = {key: getattr(self.config, key) for key in FIXED}
        changed = [key for key in FIXED if getattr(loaded.config, key) != kept[key]]
        if changed:
            log.warning("restart needed for some changes", extra={"keys": changed})
        config = msgspec.structs.replace(loaded.config, **kept)
        assembly = registry().assemble(config, self._assembly)
        document = await asyncio.to_thread(self._document, config, assembly)
        if self._neighbour is not None:
            self._neighbour.renew()
        await asyncio.to_thread(self.core.reload, document)
        self._loaded = Loaded(config, loaded.origin, loaded.warnings)
        self._assembly = assembly
        if self._bridge is not None:
            self._bridge.use(assembly)
        node_log.configure(config.log)
        for warning in loaded.warnings:
            log.warning("configuration doubtful", extra={"problem": str(warning)})

    def _document(self, config: Config, assembly: Assembly) -> str:
        """The core's configuration, certificates made where there are none. Blocks."""
        data_dir = Path(config.data_dir)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        hosts = with_certificates(assembly.core_hosts, data_dir)
        self._certificates = {
            host.domain: _end(host.domain, Path(host.certificate))
            for host in hosts
            if host.certificate is not None
        }
        return render_core(config, assembly.declarations, hosts, assembly.core_modules)

    def _context(self) -> CommandContext:
        return CommandContext(
            store=self._assembly.store,
            hosts=self._assembly.contexts,
            shut_down=self.request_stop,
        )

    def request_stop(self, delay_s: float) -> None:
        """Begins a graceful stop after this time, as SIGTERM does at once."""
        asyncio.get_running_loop().call_later(delay_s, self.stop_requested.set)

    def _drains(self) -> bool:
        """Clients are sent elsewhere from now on; whether they were already."""
        was_draining = self.state is State.DRAINING
        if self.state is State.READY:
            self.state = State.DRAINING
        return was_draining

    def _stays(self) -> bool | None:
        """Clients are taken again; whether they were not, None once the node ends."""
        if self._is_ending:
            return None
        was_draining = self.state is State.DRAINING
        if was_draining:
            self.state = State.READY
        return was_draining

    def _status(self) -> Status:
        """Ready is a node that runs and, in a cluster, is in it."""
        is_ready, state = self.state is State.READY, self.state.value
        if is_ready and self._neighbour is not None:
            view = self._neighbour.view()
            if view is None or not view.is_in:
                return Status(is_ready=False, state=view.stage_word if view else "unknown")
        return Status(is_ready=is_ready, state=state)

    def _view(self) -> View:
        return View(
            status=self._status,
            core_metrics=self.core.metrics,
            websocket_urls=lambda: {
                domain: url
                for domain in self.config.domains
                if (url := websocket_url(self.config, domain)) is not None
            },
        )

    def _measure(self) -> None:
        read = self.meters.read
        read(names.BUILD_INFO, lambda: {(__version__, self.config.node.name): 1})
        read(names.START_TIME, lambda: {(): self._started_s})
        read(names.READY, lambda: {(): float(self._status().is_ready)})
        read(
            names.CERTIFICATE_END,
            lambda: {(domain,): end for domain, end in self._certificates.items()},
        )
        for field, metric in names.BRIDGE.items():
            read(metric, functools.partial(self._bridge_count, field))

    def _bridge_count(self, field: str) -> Mapping[tuple[str, ...], float]:
        return {(): getattr(self._bridge.counts, field) if self._bridge is not None else 0}


@contextlib.asynccontextmanager
async def offline(config: Config) -> AsyncIterator[CommandRunner]:
    """Commands on the data of a node that is stopped. Raises NodeError if it is not."""
    assembly = registry().assemble(config)
    try:
        core, eventfd = await asyncio.to_thread(_offline_core, config, assembly)
    except (ConfigError, OSError) as error:
        raise NodeError(_line(error)) from error
    bridge = Bridge(core, assembly)
    bridge.start(eventfd)
    context = CommandContext(store=assembly.store, hosts=assembly.contexts)
    try:
        yield CommandRunner(lambda: context)
    finally:
        await bridge.close(5)
        await asyncio.to_thread(core.stop, 5.0)


def _offline_core(config: Config, assembly: Assembly) -> tuple[Core, int]:
    """A core without listeners, and its eventfd."""
    Path(config.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts, modules = assembly.core_hosts, assembly.core_modules
    core = Core(render_core(config, assembly.declarations, hosts, modules, is_offline=True))
    return core, core.start()


def _end(domain: str, certificate: Path) -> float:
    """When a certificate ends; 0 if that cannot be read (the core says why)."""
    try:
        _names, end = certificate_names(certificate.read_text())
    except (OSError, ValueError):
        return 0
    left_s = end - time.time()
    if left_s < _WARN_BEFORE_S:
        days = max(0, int(left_s // 86_400))
        log.warning("certificate ends soon", extra={"host": domain, "days": days})
    return end


def _line(error: Exception) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split())
