# SPDX-License-Identifier: Apache-2.0
import asyncio
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec
import pytest

from antiphon import _core
from antiphon._core import Element, Jid, Stanza
from antiphon.xep.xep_0115_caps import CACHE, FAILED_FOR, Cache
from antiphon.xmpp import ns
from antiphon.xmpp.disco import Info, verification
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, Request

HOST = "capulet.example"
CLIENT = "juliet@capulet.example/balcony"
ANSWER = E(
    "query",
    ns.DISCO_INFO,
    E("identity", ns.DISCO_INFO, category="client", type="pc", name="Exodus 0.9.1"),
    *(
        E("feature", ns.DISCO_INFO, var=f"http://jabber.org/protocol/{name}")
        for name in ("caps", "disco#info", "disco#items", "muc")
    ),
)
VER = "QgayPKawpkPSDYmwT/WM94uAlu0="
NODE = "http://code.google.com/p/exodus"


def presence(frm: str = CLIENT, **attrs: str | None) -> Request:
    given = {"hash": "sha-1", "node": NODE, "ver": VER, **attrs}
    return Request("presence", None, frm=Jid(frm), payload=E("c", ns.CAPS, **given))


class Peer:
    """A client that answers disco#info; `asked` has the questions."""

    def __init__(self, answer: Element | StanzaError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, stanza: Stanza) -> Request | StanzaError:
        assert stanza.payload is not None
        assert str(stanza.frm) == HOST
        self.asked.append((str(stanza.to), stanza.payload.get("node")))
        if isinstance(self.answer, StanzaError):
            return self.answer
        return Request(type="result", payload=self.answer)


async def see(h: Harness, *seen: Request) -> None:
    for one in seen:
        h.core.put(_core.EV_CAPS, 0, one)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_verified_capabilities_are_kept_and_told_to_the_core() -> None:
    h = Harness()
    h.core.peer = peer = Peer(ANSWER)
    await see(h, presence())
    assert peer.asked == [(CLIENT, f"{NODE}#{VER}")]
    assert h.core.known_caps == [("sha-1", VER)]
    assert CACHE.of(h.assembly.contexts[HOST]).find(("sha-1", VER)) == Info.of(ANSWER)
    await see(h, presence("romeo@capulet.example/x"))
    assert len(peer.asked) == 1


async def test_other_hashes_are_verified_too() -> None:
    h = Harness()
    h.core.peer = Peer(ANSWER)
    ver = verification(Info.of(ANSWER), "sha-256")
    await see(h, presence(hash="sha-256", ver=ver))
    assert h.core.known_caps == [("sha-256", ver)]


async def test_one_question_at_a_time_for_one_hash() -> None:
    h = Harness()
    h.core.peer = peer = Peer(ANSWER)
    await see(h, *(presence(f"user{n}@capulet.example/x") for n in range(10)))
    assert len(peer.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        StanzaError("service-unavailable"),
        E("query", ns.DISCO_INFO),
        E("query", "urn:other"),
        ANSWER.with_children([E("feature", ns.DISCO_INFO, var="http://jabber.org/protocol/muc")]),
        ANSWER.with_children([E("feature", ns.DISCO_INFO, var="poison")]),
    ],
)
async def test_what_does_not_verify_is_not_kept_but_asked_of_another(
    answer: Element | StanzaError,
) -> None:
    h = Harness()
    h.core.peer = peer = Peer(answer)
    await see(h, presence())
    await see(h, presence())
    assert len(peer.asked) == 1
    assert h.core.known_caps == []
    peer.answer = ANSWER
    await see(h, presence("romeo@capulet.example/x"))
    assert h.core.known_caps == [("sha-1", VER)]


async def test_who_failed_is_asked_again_after_a_while() -> None:
    h = Harness()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ctx = h.assembly.contexts[HOST]
    h.assembly.contexts[HOST] = msgspec.structs.replace(ctx, clock=lambda: now)
    h.core.peer = peer = Peer(StanzaError("service-unavailable"))
    await see(h, presence())
    now += FAILED_FOR - timedelta(seconds=1)
    await see(h, presence())
    assert len(peer.asked) == 1
    now += timedelta(seconds=1)
    await see(h, presence())
    assert len(peer.asked) == 2


@pytest.mark.parametrize(
    "attrs",
    [
        {"hash": None},  # the legacy format
        {"hash": "md5"},
        {"ver": None},
        {"node": None},
        {"ver": "x" * 300},
    ],
)
async def test_what_cannot_be_verified_is_not_asked(attrs: dict[str, str | None]) -> None:
    h = Harness()
    h.core.peer = peer = Peer(ANSWER)
    await see(h, presence(CLIENT, **attrs))
    await see(h, Request("presence", None, frm=Jid(CLIENT)))
    assert peer.asked == []


async def test_the_cache_is_bounded() -> None:
    cache = Cache()
    info = Info.of(ANSWER)
    for n in range(5):
        cache.keep(("sha-1", str(n)), info, 3)
    assert cache.find(("sha-1", "1")) is None
    assert cache.find(("sha-1", "2")) is info
    cache.keep(("sha-1", "5"), info, 3)
    assert cache.find(("sha-1", "2")) is info
    assert cache.find(("sha-1", "3")) is None


async def test_presence_of_a_host_that_is_not_ours_is_ignored() -> None:
    h = Harness()
    h.core.peer = peer = Peer(ANSWER)
    await see(h, presence("mallory@evil.example/x"))
    assert peer.asked == []
    await h.assembly.caps_seen(cast(Stanza, presence("mallory@evil.example/x")))
