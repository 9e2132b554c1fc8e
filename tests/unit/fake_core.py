# SPDX-License-Identifier: Apache-2.0
"""A core in memory: takes the bridge's actions and answers its calls, without threads or sockets."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from msgspec import Struct

from antiphon import _core
from antiphon._core import Element, Jid, Stanza
from antiphon.config.schema import Component, Config, Modules
from antiphon.node.bridge import Bridge, BridgeLimits, HttpHandler
from antiphon.xep._registry import Assembly, registry
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E

Event = tuple[int, int, object, object]
Presence = tuple[Jid, int | None, Element | None, bool]


@dataclass
class Request:
    """An incoming stanza as the core's handle shows it."""

    kind: str = "iq"
    type: str | None = "get"
    id: str | None = "i"
    frm: Jid | None = None
    to: Jid | None = None
    payload: Element | None = None
    lang: str | None = "en"
    session: tuple[int, int] | None = None
    address: str | None = None

    @property
    def element(self) -> Element:
        children = [] if self.payload is None else [self.payload]
        return Element(self.kind, ns.CLIENT, {}, children)


@dataclass
class FakeCore:
    """What the core keeps, in plain dictionaries; `calls` records every operation."""

    accounts: dict[str, bool] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    rosters: dict[str, dict[str, tuple[str, list[str]]]] = field(default_factory=dict)
    blocked: dict[str, list[Jid]] = field(default_factory=dict)
    sees: set[tuple[str, str]] = field(default_factory=set)
    activity: dict[str, tuple[int, str, bool]] = field(default_factory=dict)
    sessions: dict[str, list[Presence]] = field(default_factory=dict)
    values: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    calls: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)
    batches: list[list[tuple[object, ...]]] = field(default_factory=list)
    sent: list[Stanza] = field(default_factory=list)
    known_caps: list[tuple[object, object]] = field(default_factory=list)
    answers: dict[int, Element | StanzaError | None] = field(default_factory=dict)
    responses: dict[int, tuple[object, ...]] = field(default_factory=dict)
    peer: Callable[[Stanza], Request | StanzaError] | None = None
    held: set[str] = field(default_factory=set)
    wake: Callable[[], None] = lambda: None
    _events: deque[Event] = field(default_factory=deque)

    def put(self, kind: int, ticket: int, a: object = None, b: object = None) -> None:
        """Queues an event and wakes the bridge as the eventfd would."""
        self._events.append((kind, ticket, a, b))
        self.wake()

    def drain(self, limit: int = 256) -> list[Event]:
        events = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
        if self._events:
            self.wake()
        return events

    def submit(self, actions: Sequence[tuple[object, ...]]) -> None:
        self.batches.append(list(actions))
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: tuple[object, ...]) -> None:
        kind = action[0]
        if kind == _core.ACT_REPLY:
            _, ticket, payload = action
            if not isinstance(payload, Element | None):
                raise TypeError("not an element")
            self._answer(cast(int, ticket), payload)
        elif kind == _core.ACT_FAIL:
            _, ticket, condition, type_, text, app = action
            error = StanzaError.named(str(condition), cast("str | None", text), str(type_))
            error.app = cast("Element | None", app)
            self._answer(cast(int, ticket), error)
        elif kind == _core.ACT_SEND:
            self.sent.append(cast(Stanza, action[1]))
        elif kind == _core.ACT_CALL:
            _, ticket, operation, arguments = action
            self._call(cast(int, ticket), str(operation), cast("tuple[object, ...]", arguments))
        elif kind == _core.ACT_REQUEST:
            self._request(cast(int, action[1]), cast(Stanza, action[2]))
        elif kind == _core.ACT_HTTP:
            self.responses[cast(int, action[1])] = action[2:]
        elif kind == _core.ACT_CAPS:
            self.known_caps.append((action[1], action[2]))
        else:
            raise ValueError("unknown action")

    def _answer(self, ticket: int, answer: Element | StanzaError | None) -> None:
        if ticket in self.answers:
            raise ValueError(f"{ticket} was answered before")
        self.answers[ticket] = answer

    def _request(self, ticket: int, stanza: Stanza) -> None:
        answer = StanzaError("remote-server-timeout") if self.peer is None else self.peer(stanza)
        if isinstance(answer, StanzaError):
            self.put(_core.EV_FAILED, ticket, answer.condition, answer.text)
        else:
            self.put(_core.EV_RESULT, ticket, answer)

    def _call(self, ticket: int, operation: str, arguments: tuple[object, ...]) -> None:
        self.calls.append((operation, arguments))
        if operation in self.held:
            return
        name = f"_{operation.replace('.', '_')}"
        try:
            result = getattr(self, name)(*arguments)
        except StanzaError as err:
            self.put(_core.EV_FAILED, ticket, err.condition, err.text)
        else:
            self.put(_core.EV_RESULT, ticket, result)

    # Operations.

    def _exists(self, jid: Jid) -> str:
        if str(jid) not in self.accounts:
            raise StanzaError("item-not-found")
        return str(jid)

    def _roster_get(self, owner: Jid, session: object, ver: str | None) -> Element | None:
        items = self.rosters.get(str(owner), {})
        if ver == str(len(items)):
            return None
        children = [E("item", ns.ROSTER, jid=jid, name=items[jid][0]) for jid in items]
        return E("query", ns.ROSTER, *children, ver=len(items))

    def _roster_set(self, owner: Jid, jid: Jid, name: str, groups: list[str]) -> None:
        self.rosters.setdefault(str(owner), {})[str(jid)] = (name, groups)

    def _roster_remove(self, owner: Jid, jid: Jid) -> None:
        if self.rosters.get(str(owner), {}).pop(str(jid), None) is None:
            raise StanzaError("item-not-found")

    def _block_list(self, owner: Jid, session: object) -> list[Jid]:
        return list(self.blocked.get(str(owner), []))

    def _block_add(self, owner: Jid, jids: list[Jid]) -> None:
        self.blocked.setdefault(str(owner), []).extend(jids)

    def _block_remove(self, owner: Jid, jids: list[Jid]) -> None:
        left = [j for j in self.blocked.get(str(owner), []) if jids and j not in jids]
        self.blocked[str(owner)] = left

    def _carbons_set(self, owner: Jid, session: object, enabled: bool) -> None:
        return None

    def _presence_may_see(self, owner: Jid, by: Jid) -> bool:
        return str(owner) in self.accounts and (owner == by or (str(owner), str(by)) in self.sees)

    def _activity_last(self, owner: Jid) -> tuple[int, str, bool]:
        return self.activity.get(str(owner), (0, "", False))

    def _sessions_list(self, owner: Jid) -> list[Presence]:
        return self.sessions.get(str(owner), [])

    def _sessions_all(self, domain: str, after: str | None, limit: int) -> list[Jid]:
        found = sorted(s[0] for each in self.sessions.values() for s in each)
        return [j for j in found if j.domain == domain and str(j) > (after or "")][:limit]

    def _sessions_count(self, domain: str | None) -> int:
        found = [s[0] for each in self.sessions.values() for s in each]
        return len([j for j in found if domain in (None, j.domain)])

    def _sessions_kick(self, owner: Jid, resource: str | None, condition: str) -> int:
        own = self.sessions.get(str(owner), [])
        left = [s for s in own if resource is not None and s[0].resource != resource]
        self.sessions[str(owner)] = left
        return len(own) - len(left)

    def _account_exists(self, jid: Jid) -> bool:
        return str(jid) in self.accounts

    def _account_create(self, jid: Jid, password: str) -> None:
        if str(jid) in self.accounts:
            raise StanzaError("conflict")
        self._account_put(jid, password)

    def _account_put(self, jid: Jid, password: str) -> None:
        self.accounts.setdefault(str(jid), True)
        self.passwords[str(jid)] = password

    def _account_put_keys(self, jid: Jid, keys: list[object]) -> None:
        self.accounts.setdefault(str(jid), True)

    def _account_password(self, jid: Jid, password: str) -> None:
        self.passwords[self._exists(jid)] = password

    def _account_delete(self, jid: Jid) -> None:
        del self.accounts[self._exists(jid)]

    def _account_enable(self, jid: Jid, enabled: bool) -> None:
        self.accounts[self._exists(jid)] = enabled

    def _account_state(self, jid: Jid) -> bool | None:
        return self.accounts.get(str(jid))

    def _account_list(
        self, domain: str, after: str | None, limit: int
    ) -> list[tuple[Jid, bool, int]]:
        found = sorted(Jid(text) for text in self.accounts)
        own = [j for j in found if j.domain == domain and (j.local or "") > (after or "")]
        return [(jid, self.accounts[str(jid)], 1_700_000_000_000) for jid in own[:limit]]

    def _account_count(self, domain: str) -> int:
        return sum(Jid(text).domain == domain for text in self.accounts)

    def _account_verify(self, jid: Jid, password: str) -> bool:
        return self.passwords.get(str(jid)) == password

    def _map_get(self, owner: Jid, kind: str, key: str) -> bytes | None:
        return self.values.get((str(owner), kind, key))

    def _map_put(self, owner: Jid, kind: str, key: str, value: bytes) -> None:
        if value:
            self.values[(self._exists(owner), kind, key)] = value
        else:
            self.values.pop((str(owner), kind, key), None)

    def _map_keys(self, owner: Jid, kind: str, prefix: str) -> list[str]:
        return sorted(k for o, d, k in self.values if (o, d) == (str(owner), kind))

    def _offline_count(self, owner: Jid) -> int:
        return 0

    def _node_stats(self) -> dict[str, int]:
        return {"uptime_s": 123, "sessions": len(self.sessions)}


def make_config(
    *domains: str,
    admins: Sequence[str] = (),
    disable: Sequence[str] = (),
    options: dict[str, Struct] | None = None,
    components: Sequence[str] = (),
) -> Config:
    """A configuration with these domains (`capulet.example` without any)."""
    return Config(
        domains=domains or ("capulet.example",),
        admins=tuple(admins),
        modules=Modules(disable=tuple(disable), options=options or {}),
        component=tuple(Component(domain=domain, secret="s") for domain in components),
    )


class Harness:
    """A bridge between the fake core and every feature; IQs go in as the real core matches them."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        assembly: Assembly | None = None,
        limits: BridgeLimits | None = None,
        http: HttpHandler | None = None,
    ) -> None:
        self.core = FakeCore()
        self.assembly = assembly or registry().assemble(config or make_config())
        self.bridge = Bridge(self.core, self.assembly, http=http, limits=limits)
        loop = asyncio.get_running_loop()
        self.core.wake = lambda: cast(None, loop.call_soon(self.bridge.drain))
        self._tickets = 0
        for jid in ("juliet", "romeo", "admin"):
            self.core.accounts[f"{jid}@capulet.example"] = True

    def put_iq(
        self,
        type: Literal["get", "set"],
        payload: Element,
        *,
        frm: str | None = "juliet@capulet.example/balcony",
        to: str | None = None,
        address: str | None = None,
    ) -> int:
        """Queues an IQ; the ticket of its answer. Without `to` it is for the asker's account."""
        sender = None if frm is None else Jid(frm)
        target = Jid(to) if to is not None else sender.bare if sender is not None else None
        is_host = target is None or target.local is None
        self._tickets += 1
        number = self._number("host" if is_host else "account", type == "set", payload)
        if number is None:
            self.core.answers[self._tickets] = StanzaError("service-unavailable")
            return self._tickets
        is_local = sender is not None and sender.domain in self.assembly.contexts
        request = Request(
            type=type,
            frm=sender,
            to=target,
            payload=payload,
            session=(0, 7) if is_local else None,
            address=address,
        )
        self.core.put(_core.EV_IQ, self._tickets, request, number)
        return self._tickets

    async def iq(
        self,
        type: Literal["get", "set"],
        payload: Element,
        *,
        frm: str | None = "juliet@capulet.example/balcony",
        to: str | None = None,
        address: str | None = None,
    ) -> Element | None:
        """The result's payload; raises the StanzaError of an error answer."""
        ticket = self.put_iq(type, payload, frm=frm, to=to, address=address)
        answer = await self.answer(ticket)
        if isinstance(answer, StanzaError):
            raise answer
        return answer

    async def answer(self, ticket: int) -> Element | StanzaError | None:
        """The answer to a queued IQ."""
        for _ in range(10_000):
            if ticket in self.core.answers:
                return self.core.answers[ticket]
            await asyncio.sleep(0)
        raise AssertionError("the request was not answered")

    def _number(self, target: str, is_set: bool, payload: Element) -> int | None:
        wanted = (target, is_set, payload.ns, payload.name)
        found = [
            number
            for number, one in enumerate(self.assembly.declarations)
            if (one.target, one.is_set, one.ns, one.name) == wanted
        ]
        # The core keeps the last of equal declarations.
        return found[-1] if found else None


async def refused(awaitable: object) -> StanzaError:
    """The stanza error that this raises."""
    try:
        await cast("asyncio.Future[object]", awaitable)
    except StanzaError as err:
        return err
    raise AssertionError("it was not refused")
