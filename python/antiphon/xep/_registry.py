# SPDX-License-Identifier: Apache-2.0
"""Finds every feature, and makes of a configuration what the core and the bridge need."""

import importlib
import logging
import pkgutil
import re
from collections.abc import Awaitable, Iterable, Iterator, MutableMapping, Sequence
from functools import cache
from typing import TypeVar

from msgspec import Struct

from antiphon.config.core import CORE_MODULES, CoreHandler, CoreHost
from antiphon.config.schema import Config, HostSettings
from antiphon.hooks.bus import Bus
from antiphon.hooks.context import Host, LateLink, Link
from antiphon.storage.api import Store
from antiphon.storage.context import Context
from antiphon.xep._declare import Answer, Declaration, Extension, Handler, Rfc, Xep
from antiphon.xep._points import CAPS_SEEN, STREAM_FEATURES
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import Iq, Stanza

T = TypeVar("T")

log = logging.getLogger(__name__)

PACKAGES = ("antiphon.im", "antiphon.xep", "antiphon.federation")
_XEP_FILE = re.compile(r"xep_(\d{4})_(\w+)\Z")


class DeclarationError(Exception):
    """A feature's file is not what a feature's file must be."""


class Assembly:
    """The features as one configuration has them: what the core is told, and who answers.

    The numbers of handlers depend only on the code, never on the configuration, so an event that
    was queued before a reload still finds its handler.
    """

    def __init__(
        self,
        features: Sequence[Declaration],
        config: Config,
        slots: MutableMapping[object, object],
    ) -> None:
        self.handlers: tuple[Handler, ...] = tuple(
            handler for feature in features for handler in feature.handlers
        )
        self.slots = slots
        self._link = LateLink()
        self._features = features
        self._store = Store(self._link)
        self.contexts: dict[str, Context] = {
            host.domain: self._context(host, config) for host in config.hosts()
        }

    @property
    def store(self) -> Store:
        """The node's store, for what is not about one host."""
        return self._store

    @property
    def link(self) -> Link:
        """The way to the core; works once the bridge is bound."""
        return self._link

    def bind(self, link: Link) -> None:
        """Connects every context with the bridge."""
        self._link.bind(link)

    def _context(self, config: HostSettings, whole: Config) -> Context:
        enabled = _enabled(self._features, config)
        on = [feature for feature in self._features if feature.name in enabled]
        hooks: dict[object, list[object]] = {}
        for feature in on:
            for point, function in feature.hooks:
                hooks.setdefault(point, []).append(function)
        host = Host(
            jid=Jid(config.domain),
            config=config,
            limits=whole.limits,
            components=tuple(_components(config.domain, whole)),
            enabled=enabled,
            identities=_merged(feature.identities for feature in on),
            features=_merged(feature.features for feature in on),
            account_features=_merged(feature.account_features for feature in on),
            owner_features=_merged(feature.owner_features for feature in on),
        )
        return Context(
            host=host, link=self._link, bus=Bus(hooks), slots=self.slots, store=self._store
        )

    # What the core's configuration says.

    @property
    def declarations(self) -> tuple[CoreHandler, ...]:
        """`handlers` of the core's configuration; a handler's number is its place."""
        return tuple(
            CoreHandler(
                target="host" if handler.target == "host" else "account",
                is_set=handler.is_set,
                ns=handler.ns,
                name=handler.name,
                ordered=handler.is_ordered,
            )
            for handler in self.handlers
        )

    @property
    def core_modules(self) -> dict[str, bool]:
        """`modules` of the core's configuration: on if on for any host."""
        hosts = [self._modules(ctx) for ctx in self.contexts.values()]
        return {module: any(host[module] for host in hosts) for module in CORE_MODULES}

    def _modules(self, ctx: Context) -> dict[str, bool]:
        on = {feature.core for feature in self._features if feature.name in ctx.host.enabled}
        return {module: module in on for module in CORE_MODULES}

    @property
    def core_hosts(self) -> tuple[CoreHost, ...]:
        """`hosts` of the core's configuration, with the certificates of the configuration."""
        return tuple(
            CoreHost(
                domain=ctx.host.domain,
                certificate=ctx.host.config.certificate,
                key=ctx.host.config.key,
                extra_features=self.extra_features(ctx.host.domain),
                registration="register" in ctx.host.enabled,
                modules=self._modules(ctx) if self._modules(ctx) != self.core_modules else None,
            )
            for ctx in self.contexts.values()
        )

    def extra_features(self, domain: str) -> str:
        """XML that a host adds to its stream features after login; see STREAM_FEATURES."""
        ctx = self.contexts[domain]
        elements = (function(ctx, None) for function in ctx.bus.of(STREAM_FEATURES))
        return b"".join(element.to_bytes() for element in elements).decode()

    # What the bridge asks.

    def answer(self, number: int, stanza: Stanza) -> Answer | Awaitable[Answer]:
        """Runs the handler of an IQ; raises StanzaError for an error answer."""
        handler = self.handlers[number]
        iq = Iq(stanza)
        ctx = self._for(stanza)
        if handler.feature.name not in ctx.host.enabled:
            raise StanzaError("service-unavailable")
        if handler.target == "own" and not iq.is_own:
            raise StanzaError("forbidden")
        return handler.function(ctx, iq)

    def _for(self, stanza: Stanza) -> Context:
        to = stanza.to or stanza.frm
        if to is not None and to.domain in self.contexts:
            return self.contexts[to.domain]
        if to is None and len(self.contexts) == 1:
            # Before login a request may name nobody (XEP-0077 example 4 without a `to`).
            return next(iter(self.contexts.values()))
        raise StanzaError("service-unavailable")

    async def caps_seen(self, presence: Stanza) -> None:
        """Learns capabilities that the core met; see CAPS_SEEN."""
        try:
            ctx = self._for(presence)
        except StanzaError:
            return
        for function in ctx.bus.of(CAPS_SEEN):
            await function(ctx, presence)


class Registry:
    """Every feature there is, in the order of their numbers."""

    def __init__(self, features: Iterable[Declaration]) -> None:
        self.features = tuple(sorted(features, key=_order))
        _check(self.features)

    def configs(self) -> dict[str, type[Struct] | None]:
        """Every feature that can be turned off, by its name, with the struct of its options."""
        return {one.name: one.config for one in self.features if one.is_switchable}

    def assemble(self, config: Config, previous: Assembly | None = None) -> Assembly:
        """The features under this configuration; `previous` hands over what they keep in memory."""
        return Assembly(self.features, config, {} if previous is None else previous.slots)


@cache
def registry() -> Registry:
    """Every feature of the packages; found once, since it depends only on the code."""
    return Registry(_found())


def _found() -> Iterator[Declaration]:
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for entry in pkgutil.iter_modules(path):
            if entry.name.startswith("_"):
                continue
            module = importlib.import_module(f"{package}.{entry.name}")
            match = _XEP_FILE.match(entry.name)
            names = ("xep",) if match else ("rfc", "extension")
            declared = next((vars(module)[name] for name in names if name in vars(module)), None)
            if match and isinstance(declared, Xep) and declared.number == int(match[1]):
                declared.bind(match[2], module.__doc__ or "")
            elif not match and isinstance(declared, Rfc | Extension):
                declared.bind(entry.name, module.__doc__ or "")
            else:
                raise DeclarationError(f"{module.__name__} does not declare what it is")
            yield declared


def _order(feature: Declaration) -> tuple[int, int, str]:
    """RFCs, XEPs, what is neither."""
    number = feature.number if isinstance(feature, Xep | Rfc) else 0
    rank = next((n for n, kind in enumerate((Rfc, Xep)) if isinstance(feature, kind)), 2)
    return rank, number, feature.name


def _check(features: Sequence[Declaration]) -> None:
    names: set[str] = set()
    claimed: dict[tuple[bool, bool, str, str], str] = {}
    known = {one.name for one in features} | {o.number for o in features if isinstance(o, Xep)}
    for feature in features:
        if feature.name in names:
            raise DeclarationError(f"two features are named {feature.name}")
        names.add(feature.name)
        for required in feature.requires:
            if required not in known:
                raise DeclarationError(f"{feature.name} requires {required}, which is not there")
        for handler in feature.handlers:
            key = (handler.target == "host", handler.is_set, handler.ns, handler.name)
            if key in claimed:
                raise DeclarationError(f"{claimed[key]} and {feature.name} both answer {key}")
            claimed[key] = feature.name


def _enabled(features: Sequence[Declaration], config: HostSettings) -> frozenset[str]:
    on = {one.name for one in features if not one.is_switchable or _is_on(one, config)}
    by_number = {one.number: one.name for one in features if isinstance(one, Xep)}
    # What requires a feature that is off is off too; again until nothing changes.
    while True:
        off = {
            one.name
            for one in features
            if one.name in on
            and any(
                (by_number[name] if isinstance(name, int) else name) not in on
                for name in one.requires
            )
        }
        if not off:
            return frozenset(on)
        log.info("features off", extra={"host": config.domain, "features": sorted(off)})
        on -= off


def _is_on(feature: Declaration, config: HostSettings) -> bool:
    whole = {"mam": config.archive.enabled, "inbox": config.archive.inbox}
    if not config.is_enabled(feature.name) or not whole.get(feature.core or "", True):
        return False
    if feature.config is None:
        return True
    return bool(getattr(config.options(feature.name, feature.config), "enabled", True))


def _components(domain: str, config: Config) -> Iterator[Jid]:
    """Components below this domain; the first domain also lists those below none (XEP-0114)."""
    for component in config.component:
        parents = [d for d in config.domains if component.domain.endswith(f".{d}")]
        parent = max(parents, key=len) if parents else config.domains[0]
        if parent == domain:
            yield Jid(component.domain)


def _merged(parts: Iterable[Sequence[T]]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(one for part in parts for one in part))
