# SPDX-License-Identifier: Apache-2.0
"""What the core keeps, as typed calls; the reference text of every operation.

Each call is one ticket to the core, executed in the order of the entity it concerns, so two
devices' changes never interleave. None blocks the loop. Common errors, as StanzaError:
`resource-constraint` (type wait: the store is busy or a limit is reached), `item-not-found` (no
such account), `internal-server-error` (the engine failed; it is in the log). A call that is
cancelled may still have been carried out.
"""

from collections.abc import Sequence

from antiphon.hooks.context import Link
from antiphon.storage.archive import Archive, Inbox
from antiphon.storage.model import AccountSummary, Activity, ScramKeys, SessionSummary
from antiphon.storage.part import Part, as_type
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import from_ms
from antiphon.xmpp.stanza import Element, Session

# Methods are named `list`, so inside their classes the type needs another name.
Jids = list[Jid]
Names = list[str]
SessionSummaries = list[SessionSummary]
AccountSummaries = list[AccountSummary]


class Roster(Part):
    """Rosters (RFC 6121 §2)."""

    async def get(self, owner: Jid, session: Session | None, ver: str | None) -> Element | None:
        """The roster as `<query ver=…/>`; None if it is still what the client's `ver` says.

        `session` becomes interested and gets roster pushes; None leaves all sessions as they are.
        """
        found = await self._link.call("roster.get", owner, session, ver)
        return None if found is None else as_type(Element, found)

    async def set(self, owner: Jid, jid: Jid, name: str, groups: Sequence[str]) -> None:
        """Adds or changes an item; its subscription stays. Pushes it to interested sessions.

        Raises `resource-constraint` above `limits.roster_items`.
        """
        await self._link.call("roster.set", owner, jid, name, list(groups))

    async def remove(self, owner: Jid, jid: Jid) -> None:
        """Removes an item, ends its subscriptions (RFC 6121 §2.5), pushes the removal.

        Raises `item-not-found` if there is no such item.
        """
        await self._link.call("roster.remove", owner, jid)


class Blocks(Part):
    """Block lists (XEP-0191)."""

    async def list(self, owner: Jid, session: Session | None) -> Jids:
        """Blocked addresses; `session` gets pushes of changes from now on."""
        return as_type(list, await self._link.call("block.list", owner, session))

    async def add(self, owner: Jid, jids: Sequence[Jid]) -> None:
        """Blocks these, in force from the very next stanza; sends unavailable presence to those
        who saw the user's, and pushes. Raises `resource-constraint` above
        `limits.blocked_items`."""
        await self._link.call("block.add", owner, list(jids))

    async def remove(self, owner: Jid, jids: Sequence[Jid]) -> None:
        """Unblocks these, all if `jids` is empty; sends them the current presence, and pushes."""
        await self._link.call("block.remove", owner, list(jids))


class Carbons(Part):
    """Message carbons (XEP-0280)."""

    async def set(self, owner: Jid, session: Session, is_on: bool) -> None:
        """Turns carbons of one session on or off, from the next message."""
        await self._link.call("carbons.set", owner, session, is_on)


class Presence(Part):
    """Who may see whom (RFC 6121 §3)."""

    async def may_see(self, owner: Jid, by: Jid) -> bool:
        """Whether `by` is the owner himself or subscribed to the owner's presence; False if there
        is no such account."""
        return as_type(bool, await self._link.call("presence.may_see", owner, by))


class ActivityCalls(Part):
    """Last activity (XEP-0012)."""

    async def last(self, owner: Jid) -> Activity:
        """When the account's last session ended, and whether one is there now."""
        found = as_type(tuple, await self._link.call("activity.last", owner))
        at_ms, status, is_online = found
        return Activity(from_ms(at_ms) if at_ms else None, status, is_online)


class Sessions(Part):
    """Bound resources, in a cluster those of all nodes."""

    async def list(self, owner: Jid) -> SessionSummaries:
        """Sessions of one account, at most `limits.sessions_per_user`."""
        found = as_type(list, await self._link.call("sessions.list", owner))
        return [SessionSummary(*entry) for entry in found]

    async def all(self, domain: str, after: str | None, limit: int) -> Jids:
        """Full JIDs of a domain's sessions in the order of their text, behind `after`, at most
        `limit` (1 to 1,000)."""
        return as_type(list, await self._link.call("sessions.all", domain, after, limit))

    async def count(self, domain: str | None) -> int:
        """How many sessions a domain has; None: all of them."""
        return as_type(int, await self._link.call("sessions.count", domain))

    async def kick(self, owner: Jid, resource: str | None, condition: str) -> int:
        """Ends one session, or all, with this stream error; how many there were."""
        return as_type(int, await self._link.call("sessions.kick", owner, resource, condition))


class Accounts(Part):
    """Accounts of served domains. Passwords become SCRAM keys in the core (milliseconds, off the
    loop); none is ever kept. A password that OpaqueString (RFC 8265 §4.2) refuses:
    `not-acceptable`."""

    async def exists(self, jid: Jid) -> bool:
        """Whether there is such an account, enabled or not."""
        return as_type(bool, await self._link.call("account.exists", jid))

    async def create(self, jid: Jid, password: str) -> None:
        """A new account. Raises `conflict` if it exists."""
        await self._link.call("account.create", jid, password)

    async def set_password(self, jid: Jid, password: str) -> None:
        """New keys for an account. Raises `item-not-found`."""
        await self._link.call("account.password", jid, password)

    async def put(self, jid: Jid, password: str) -> None:
        """Creates the account or changes its password (import)."""
        await self._link.call("account.put", jid, password)

    async def put_keys(self, jid: Jid, keys: Sequence[ScramKeys]) -> None:
        """Creates the account or replaces its keys by these (import)."""
        rows = [(k.hash, k.iterations, k.salt, k.stored_key, k.server_key) for k in keys]
        await self._link.call("account.put_keys", jid, rows)

    async def delete(self, jid: Jid) -> None:
        """Removes the account with all that is stored for it, ends its sessions and its
        subscriptions. Raises `item-not-found`."""
        await self._link.call("account.delete", jid)

    async def enable(self, jid: Jid, is_enabled: bool) -> None:
        """Lets the account log in, or not; disabling ends no session by itself. Raises
        `item-not-found`."""
        await self._link.call("account.enable", jid, is_enabled)

    async def state(self, jid: Jid) -> bool | None:
        """Whether the account is enabled; None if there is none."""
        found = await self._link.call("account.state", jid)
        return None if found is None else as_type(bool, found)

    async def list(self, domain: str, after: str | None, limit: int) -> AccountSummaries:
        """Accounts of a domain by localpart, behind the localpart `after`, at most `limit`
        (1 to 1,000)."""
        found = as_type(list, await self._link.call("account.list", domain, after, limit))
        return [AccountSummary(jid, is_on, from_ms(created)) for jid, is_on, created in found]

    async def count(self, domain: str) -> int:
        """How many accounts a domain has."""
        return as_type(int, await self._link.call("account.count", domain))

    async def verify(self, jid: Jid, password: str) -> bool:
        """Whether this is the account's password; False for an unknown account."""
        return as_type(bool, await self._link.call("account.verify", jid, password))


class Map(Part):
    """A kind of the generic map (owner, kind, key) → value. Values are bytes, never empty."""

    __slots__ = ("_kind",)

    def __init__(self, link: Link, kind: str) -> None:
        super().__init__(link)
        self._kind = kind

    async def get(self, owner: Jid, key: str) -> bytes | None:
        """A value; None if there is none, or no such account."""
        found = await self._link.call("map.get", owner, self._kind, key)
        return None if found is None else as_type(bytes, found)

    async def put(self, owner: Jid, key: str, value: bytes) -> None:
        """Stores a value in place of the old one; done when committed."""
        if not value:
            raise ValueError("an empty value removes: say remove")
        await self._link.call("map.put", owner, self._kind, key, value)

    async def remove(self, owner: Jid, key: str) -> None:
        """Removes a value, if there is one."""
        await self._link.call("map.put", owner, self._kind, key, b"")

    async def keys(self, owner: Jid, prefix: str) -> Names:
        """Keys that begin with this, sorted, at most 1,000."""
        return as_type(list, await self._link.call("map.keys", owner, self._kind, prefix))


class Offline(Part):
    """Offline messages (XEP-0160)."""

    async def count(self, owner: Jid) -> int:
        """How many messages wait for this account."""
        return as_type(int, await self._link.call("offline.count", owner))


class Node(Part):
    """The node itself."""

    async def stats(self) -> dict[str, int]:
        """Counters by name; `uptime_s` and `sessions` at least."""
        return as_type(dict, await self._link.call("node.stats"))


class Store:
    """All of the above; one per node."""

    __slots__ = (
        "accounts",
        "activity",
        "archive",
        "blocks",
        "carbons",
        "feature_map",
        "inbox",
        "node",
        "offline",
        "presence",
        "private",
        "roster",
        "sessions",
        "vcards",
    )

    def __init__(self, link: Link) -> None:
        self.accounts = Accounts(link)
        self.activity = ActivityCalls(link)
        self.archive = Archive(link)
        self.blocks = Blocks(link)
        self.carbons = Carbons(link)
        self.feature_map = Map(link, "feature")
        self.inbox = Inbox(link)
        self.node = Node(link)
        self.offline = Offline(link)
        self.presence = Presence(link)
        self.private = Map(link, "private")
        self.roster = Roster(link)
        self.sessions = Sessions(link)
        self.vcards = Map(link, "vcard")
