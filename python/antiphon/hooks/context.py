# SPDX-License-Identifier: Apache-2.0
"""What a feature sees of the node: one frozen context per served host, shared by all requests."""

from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar, cast

from msgspec import Struct

from antiphon.config.schema import HostSettings, Limits
from antiphon.hooks.bus import Bus
from antiphon.xmpp.disco import Identity
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import Stanza

T = TypeVar("T")


class Link(Protocol):
    """The way to the core. The node's bridge is one."""

    async def call(self, operation: str, *arguments: object) -> object:
        """Runs an operation of the core (see `antiphon.storage.api`). Raises StanzaError."""

    async def request(self, stanza: Stanza, timeout_s: float) -> Stanza:
        """Sends an IQ get or set and gives the result. Raises StanzaError for an error answer, and
        `remote-server-timeout` when none came in time."""

    def send(self, stanza: Stanza) -> None:
        """Routes a stanza of the server; `frm` and `to` must be set. Never blocks."""

    def caps_known(self, hash_name: str, ver: str) -> None:
        """Tells the core that these capabilities need no more questions (XEP-0115)."""


class LateLink:
    """A link that is bound later: contexts exist before the core does."""

    __slots__ = ("_link",)

    def __init__(self) -> None:
        self._link: Link | None = None

    def bind(self, link: Link) -> None:
        """From now on calls go there."""
        self._link = link

    def _bound(self) -> Link:
        if self._link is None:
            raise RuntimeError("the node has not started")
        return self._link

    async def call(self, operation: str, *arguments: object) -> object:
        """See Link."""
        return await self._bound().call(operation, *arguments)

    async def request(self, stanza: Stanza, timeout_s: float) -> Stanza:
        """See Link."""
        return await self._bound().request(stanza, timeout_s)

    def send(self, stanza: Stanza) -> None:
        """See Link."""
        self._bound().send(stanza)

    def caps_known(self, hash_name: str, ver: str) -> None:
        """See Link."""
        self._bound().caps_known(hash_name, ver)


class Host(Struct, frozen=True, kw_only=True):
    """A served domain: its configuration, and what its enabled features announce.

    `components` are the domains of external components that are listed under this host.
    """

    jid: Jid
    config: HostSettings
    limits: Limits
    components: tuple[Jid, ...]
    enabled: frozenset[str]
    identities: tuple[Identity, ...]
    features: tuple[str, ...]
    account_features: tuple[str, ...]
    owner_features: tuple[str, ...]

    @property
    def domain(self) -> str:
        """The domain as text."""
        return self.config.domain


class BaseContext(Struct, frozen=True, kw_only=True):
    """The part of the context that does not know the storage."""

    host: Host
    link: Link
    bus: Bus
    slots: MutableMapping[object, object]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def now(self) -> datetime:
        """The time, in UTC."""
        return self.clock()

    def is_admin(self, jid: Jid) -> bool:
        """Whether this address administers the host."""
        return jid.bare in self.host.config.admins

    def send(self, stanza: Stanza) -> None:
        """Routes a stanza of the server; `frm` and `to` must be set. Never blocks."""
        self.link.send(stanza)

    async def request(self, stanza: Stanza, timeout_s: float = 30.0) -> Stanza:
        """Sends an IQ get or set of the server and gives the result; see Link."""
        return await self.link.request(stanza, timeout_s)


class Slot(Generic[T]):
    """State that a feature keeps in memory, one value per host of a node, made when first used.

    The value outlives a reload of the configuration and is lost with the process; whoever puts
    anything into it bounds it.
    """

    __slots__ = ("_factory",)

    def __init__(self, factory: Callable[[], T]) -> None:
        self._factory = factory

    def of(self, ctx: BaseContext) -> T:
        """The value for the context's host."""
        key = (self, ctx.host.domain)
        if key not in ctx.slots:
            ctx.slots[key] = self._factory()
        return cast(T, ctx.slots[key])
