# SPDX-License-Identifier: Apache-2.0
"""What a feature's file is written with: the declaration, its handlers, and what they get."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Required, TypedDict, TypeVar, Unpack

from msgspec import Struct

from antiphon.config.core import CORE_MODULES
from antiphon.hooks.bus import Point
from antiphon.storage.context import Context
from antiphon.xmpp.disco import Identity
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E, Element, Iq

__all__ = [
    "AfterReply",
    "Context",
    "Declaration",
    "E",
    "Element",
    "Extension",
    "Handler",
    "Identity",
    "Iq",
    "Rfc",
    "StanzaError",
    "Xep",
]

A = TypeVar("A")
R = TypeVar("R")
S = TypeVar("S", bound=Struct)

Target = Literal["host", "account", "own"]
"""Whom an IQ is for: the served domain, any account, or the asker's own account only."""


class AfterReply(Struct, frozen=True):
    """An answer, and what to do once it is on its way (the account's removal ends its stream)."""

    payload: Element | None
    then: Callable[[], Awaitable[None]]


Answer = Element | AfterReply | None
IqFunction = Callable[[Context, Iq], Answer | Awaitable[Answer]]
"""A plain `def` runs inline while events are drained and must not take long; an `async def` gets
a task with a deadline."""
F = TypeVar("F", bound=IqFunction)


class Handler(Struct, frozen=True):
    """One entry of the core's match table and what answers it."""

    feature: "Declaration"
    is_set: bool
    ns: str
    name: str
    target: Target
    is_ordered: bool
    function: IqFunction


class Declared(TypedDict, total=False):
    """What a declaration may say; see Declaration."""

    title: Required[str]
    features: Sequence[str]
    account_features: Sequence[str]
    owner_features: Sequence[str]
    identities: Sequence[Identity]
    requires: Sequence[int | str]
    config: type[Struct]
    core: str
    is_switchable: bool


class Declaration:
    """What a feature is, does and announces. Made once per file, at import.

    `features` are announced by the host, `account_features` by an account to those who may see its
    presence, `owner_features` by an account to itself. `requires` names features (by number for
    XEPs) without which this one is off. `config` holds its options; an option `enabled` that is
    false turns it off. `core` is the core's switch for what is done there. A feature that is not
    `is_switchable` cannot be turned off: it is part of the streams, or only a format.
    """

    def __init__(self, **given: Unpack[Declared]) -> None:
        core = given.get("core")
        if core is not None and core not in CORE_MODULES:
            raise ValueError(f"the core has no switch {core!r}")
        self.title = given["title"]
        self.features = tuple(given.get("features", ()))
        self.account_features = tuple(given.get("account_features", ()))
        self.owner_features = tuple(given.get("owner_features", ()))
        self.identities = tuple(given.get("identities", ()))
        self.requires = tuple(given.get("requires", ()))
        self.config = given.get("config")
        self.core = core
        self.is_switchable = given.get("is_switchable", True)
        self.handlers: list[Handler] = []
        self.hooks: list[tuple[object, object]] = []
        self.gain = ""
        """What a user gets: the first line of the file, behind title and version."""
        self._name: str | None = None

    @property
    def name(self) -> str:
        """Its name in `[modules]`, from the file's: `register` for `xep_0077_register.py`."""
        if self._name is None:
            raise RuntimeError("the registry has not named this feature")
        return self._name

    def bind(self, name: str, docstring: str = "") -> None:
        """Called by the registry, with the docstring of the feature's file."""
        self._name = name
        self.gain = docstring.partition("\n")[0].partition(": ")[2]

    def iq(
        self,
        type: Literal["get", "set"],
        ns: str,
        name: str,
        *,
        to: Target | tuple[Target, ...],
        ordered: bool = False,
    ) -> Callable[[F], F]:
        """Answers IQs of this type whose child is `name` in `ns`.

        An `ordered` one holds the session's later stanzas until it is answered (RFC 6120 §10.1).
        The answer is the result's child or None; a StanzaError is the error answer.
        """

        def declare(function: F) -> F:
            for target in to if isinstance(to, tuple) else (to,):
                handler = Handler(self, type == "set", ns, name, target, ordered, function)
                self.handlers.append(handler)
            return function

        return declare

    def hook(
        self, point: Point[Context, A, R]
    ) -> Callable[[Callable[[Context, A], R]], Callable[[Context, A], R]]:
        """Answers a hook point on the hosts where this feature is on."""

        def declare(function: Callable[[Context, A], R]) -> Callable[[Context, A], R]:
            self.hooks.append((point, function))
            return function

        return declare

    def options(self, ctx: Context, kind: type[S]) -> S:
        """The feature's options on the context's host; `kind` is its `config`."""
        return ctx.host.config.options(self.name, kind)


class Xep(Declaration):
    """A XEP. `status` is as in DOAP: `partial` with a `note` of what is left out; `since` is
    the version of this server that brought it."""

    def __init__(
        self,
        number: int,
        *,
        version: str,
        status: Literal["complete", "partial"] = "complete",
        note: str = "",
        since: str = "0.1.0",
        **declared: Unpack[Declared],
    ) -> None:
        super().__init__(**declared)
        self.number = number
        self.version = version
        self.status = status
        self.note = note
        self.since = since


class Rfc(Declaration):
    """A part of an RFC, by its section."""

    def __init__(self, number: int, section: str, **declared: Unpack[Declared]) -> None:
        super().__init__(**declared)
        self.number = number
        self.section = section


class Extension(Declaration):
    """A protocol that is no XEP, by the namespace that whoever designed it gave it."""

    def __init__(self, *, namespace: str, **declared: Unpack[Declared]) -> None:
        super().__init__(**declared)
        self.namespace = namespace
