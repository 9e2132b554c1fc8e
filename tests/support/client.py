# SPDX-License-Identifier: Apache-2.0
"""A raw XMPP client for tests: a stream of `stream.py`, and what is said on it.

Logins, stanzas, XEP-0198; nothing automatic here either.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode

from . import ns
from .sasl import Scram, end_point, plain
from .stream import (
    LIVE,
    TIMEOUT_S,
    Matcher,
    SmState,
    StreamClient,
    StreamClosed,
    StreamFailed,
    matcher,
)
from .xml import E, Element, iq, presence

__all__ = ["LIVE", "Client", "SaslFailed", "StreamClosed", "StreamFailed", "fence"]


class SaslFailed(AssertionError):
    """The server answered `<failure/>`; `condition` names it."""

    def __init__(self, failure: Element) -> None:
        self.failure = failure
        self.condition = failure.condition
        super().__init__(f"SASL failure {self.condition}: {failure}")


class Client(StreamClient):
    """One connection, from its login on."""

    # -- login -----------------------------------------------------------
    @property
    def mechanisms(self) -> list[str]:
        """The SASL mechanisms last offered."""
        offered = self.features.child("mechanisms", ns.SASL)
        return [] if offered is None else [m.text for m in offered.all("mechanism")]

    async def negotiate(self) -> None:
        """Connects and goes on until authentication is possible."""
        await self.connect()
        await self.open_stream()
        if self.endpoint.kind == "starttls":
            await self.starttls()

    async def authenticate(self, mechanism: str | None = None, scram: Scram | None = None) -> None:
        """Runs one SASL exchange to its success and opens the stream anew.

        Without a mechanism: the first SCRAM without channel binding that is offered.
        """
        assert self.account is not None
        name = mechanism or (scram.mechanism if scram else self.choose())
        if name == "PLAIN":
            await self.sasl(name, plain(self.account.user, self.account.password))
        else:
            exchange = scram or Scram(name, self.account.user, self.account.password)
            if name.endswith("-PLUS") and not exchange.cb_data:
                exchange.cb_type, exchange.cb_data = "tls-server-end-point", self.end_point()
                exchange.gs2 = "p=tls-server-end-point,,"
            await self.scram(exchange)
        await self.open_stream()

    def choose(self) -> str:
        for name in ("SCRAM-SHA-256", "SCRAM-SHA-1", "SCRAM-SHA-512", "PLAIN"):
            if name in self.mechanisms:
                return name
        raise AssertionError(f"no mechanism of ours in {self.mechanisms}")

    def end_point(self) -> bytes:
        """tls-server-end-point data of this connection."""
        return end_point(self.transport.certificate())

    async def sasl(self, mechanism: str, initial: bytes | None) -> bytes:
        """Sends `<auth/>`; returns the data of `<success/>` or of the `<challenge/>`."""
        text = None if initial is None else (b64encode(initial).decode() or "=")
        self.send(E("auth", ns.SASL, text, mechanism=mechanism))
        return await self.sasl_answer()

    async def sasl_response(self, response: bytes) -> bytes:
        """Sends `<response/>`; returns as `sasl` does."""
        self.send(E("response", ns.SASL, b64encode(response).decode()))
        return await self.sasl_answer()

    async def sasl_answer(self) -> bytes:
        """The next `<challenge/>` or `<success/>`; raises `SaslFailed` on `<failure/>`."""
        answer = await self.expect(lambda e: e.ns == ns.SASL)
        if answer.name == "failure":
            raise SaslFailed(answer)
        self.last_sasl = answer
        return b64decode(answer.text) if answer.text not in ("", "=") else b""

    async def scram(self, exchange: Scram) -> None:
        """Runs a SCRAM exchange, the server's signature checked."""
        challenge = await self.sasl(exchange.mechanism, exchange.first())
        exchange.verify(await self.sasl_response(exchange.final(challenge)))

    async def bind(self, resource: str | None = None) -> str:
        """Binds a resource and returns the full JID (RFC 6120 §7)."""
        wanted = E("resource", None, resource) if resource is not None else None
        reply = await self.iq("set", payload=E("bind", ns.BIND, wanted))
        assert reply.type == "result", f"bind refused: {reply}"
        self.jid = reply.at(("bind", ns.BIND), "jid").text
        return self.jid

    async def login(self, resource: str | None = None) -> Client:
        """All of it: connection, TLS, SASL, resource; no presence."""
        await self.negotiate()
        await self.authenticate()
        await self.bind(resource)
        return self

    # -- stanzas ---------------------------------------------------------
    async def iq(
        self,
        kind: str,
        *,
        to: str | None = None,
        payload: Element | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Element:
        """Sends an IQ request and returns its answer, result or error."""
        id_ = self.send(iq(kind, payload, to=to, id=self.next_id()))
        return await self.expect(
            lambda e: e.name == "iq" and e.id == id_ and e.type in ("result", "error"),
            timeout_s=timeout_s,
        )

    async def expect_nothing(
        self,
        match: Matcher | str | None = None,
        *,
        after: Client | None = None,
        within_s: float = 0.3,
        **attrs: object,
    ) -> None:
        """Asserts that nothing that fits has come, and that nothing comes.

        With `after`, a marker message from that client to our full JID says that all it
        sent before has arrived (RFC 6120 §10.1: order per recipient); without, time passes.
        """
        if after is not None:
            await fence(after, self)
        else:
            await self.sync()
            await asyncio.sleep(within_s)
        found = self._take(matcher(match, attrs))
        assert found is None, f"{self.name}: unexpected {found}"

    async def sync(self) -> None:
        """Waits until the server has handled what we sent: a ping to it comes back."""
        await self.iq("get", to=self.host, payload=E("ping", ns.PING))

    def answer(self, request: Element, payload: Element | None = None) -> None:
        """Answers an IQ request with a result."""
        self.send(iq("result", payload, to=request.frm, id=request.id))

    async def roster(self, ver: str | None = None) -> Element:
        """Fetches the roster, which makes us an interested resource (RFC 6121 §2.1.3)."""
        reply = await self.iq("get", payload=E("query", ns.ROSTER, ver=ver))
        assert reply.type == "result", f"roster refused: {reply}"
        return reply

    async def roster_set(self, jid: str, **attrs: object) -> Element:
        """Adds, changes or (subscription="remove") removes an item; `groups` is a list."""
        groups = attrs.pop("groups", [])
        assert isinstance(groups, list)
        item = E("item", None, *[E("group", None, g) for g in groups], jid=jid, **attrs)
        return await self.iq("set", payload=E("query", ns.ROSTER, item))

    async def push(self, jid: str, **attrs: object) -> Element:
        """Takes the next roster push for that JID, answers it, returns its item."""

        def fits(e: Element) -> bool:
            query = e.child("query", ns.ROSTER)
            if e.name != "iq" or e.type != "set" or query is None:
                return False
            item = query.child("item")
            return item is not None and item.get("jid") == jid

        pushed = await self.expect(fits)
        self.answer(pushed)
        item = pushed.at(("query", ns.ROSTER), "item")
        for key, value in attrs.items():
            assert item.get(key) == value, f"{key} is not {value} in {item}"
        return item

    async def online(self, priority: int | None = None, *children: Element) -> Element:
        """Sends initial presence and takes our own copy of it, so that the server knows."""
        stated = E("priority", None, str(priority)) if priority is not None else None
        self.send(presence(stated, *children))
        return await self.expect("presence", from_=self.jid, type=None)

    async def offline(self) -> None:
        """Sends unavailable presence and waits until it has been handled."""
        self.send(presence(type="unavailable"))
        await self.sync()

    # -- XEP-0198 --------------------------------------------------------
    async def sm_enable(self, resume: bool | None = True, **attrs: object) -> Element:
        """Enables stream management and counts from here (XEP-0198 #enable)."""
        flag = None if resume is None else str(resume).lower()
        self.send(E("enable", ns.SM, resume=flag, **attrs))
        self.sm = SmState()
        answer = await self.expect(lambda e: e.ns == ns.SM)
        assert answer.name == "enabled", f"not enabled: {answer}"
        self.sm.id = answer.get("id")
        self.sm.max = int(answer.get("max") or 0) or None
        return answer

    async def sm_request(self) -> int:
        """Asks for an acknowledgement; the server's `h`."""
        self.send(E("r", ns.SM))
        answer = await self.expect("a")
        return int(answer.get("h") or -1)

    async def sm_settle(self) -> None:
        """Waits until the server has acknowledged all that was sent."""
        assert self.sm is not None
        h = -1
        async with asyncio.timeout(TIMEOUT_S):
            while h != self.sm.sent:
                h = await self.sm_request()
                await asyncio.sleep(0 if h == self.sm.sent else 0.02)

    def sm_ack(self, h: int | None = None) -> None:
        """Acknowledges what has been received, or any other number."""
        assert self.sm is not None
        self.send(E("a", ns.SM, h=self.sm.received if h is None else h))

    async def sm_resume(self, old: Client, h: int | None = None) -> Element:
        """Resumes `old`'s session on this authenticated stream; returns the server's answer."""
        assert old.sm is not None
        count = old.sm.received if h is None else h
        self.sm = SmState(id=old.sm.id, received=old.sm.received, sent=old.sm.sent)
        self.send(E("resume", ns.SM, previd=old.sm.id, h=count))
        answer = await self.expect(lambda e: e.ns == ns.SM and e.name in ("resumed", "failed"))
        if answer.name == "resumed":
            self.jid = old.jid
        else:
            self.sm = None
        return answer


async def fence(sender: Client, receiver: Client) -> None:
    """Waits until all that `sender` has sent to `receiver` so far has been delivered."""
    mark = sender.next_id() + "-fence"
    stanza = E("message", ns.CLIENT, to=receiver.jid, type="headline", id=mark)
    sender.send(stanza)
    await receiver.expect("message", id=mark)
