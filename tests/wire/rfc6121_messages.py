# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §5 and §8: messages, the delivery table of §8.5.4, and IQs by address.

Where the table leaves a choice ours is: chat and normal to a bare JID go to every resource
with a priority of at least 0, headlines too; a groupchat to an account, and what no one can
take, is answered with service-unavailable; an error is dropped. Unknown accounts answer like
existing ones to those who may not know the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from support import ns
from support.archive import without_place
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, Element, iq, message

TYPES = ["normal", "chat", "groupchat", "headline"]
SITUATIONS = ["unknown", "offline", "negative", "one", "several"]

# (situation, address, type) → S silence, E error, O stored, D that resource, A all ≥ 0
TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("unknown", "bare"): {"normal": "E", "chat": "E", "groupchat": "E", "headline": "S"},
    ("unknown", "full"): {"normal": "E", "chat": "E", "groupchat": "E", "headline": "S"},
    ("offline", "bare"): {"normal": "O", "chat": "O", "groupchat": "E", "headline": "S"},
    ("offline", "full"): {"normal": "E", "chat": "O", "groupchat": "E", "headline": "S"},
    ("negative", "bare"): {"normal": "O", "chat": "O", "groupchat": "E", "headline": "S"},
    ("negative", "match"): {"normal": "D", "chat": "D", "groupchat": "D", "headline": "D"},
    ("negative", "full"): {"normal": "E", "chat": "O", "groupchat": "E", "headline": "S"},
    ("one", "bare"): {"normal": "A", "chat": "A", "groupchat": "E", "headline": "A"},
    ("one", "match"): {"normal": "D", "chat": "D", "groupchat": "D", "headline": "D"},
    ("one", "full"): {"normal": "E", "chat": "A", "groupchat": "E", "headline": "S"},
    ("several", "bare"): {"normal": "A", "chat": "A", "groupchat": "E", "headline": "A"},
    ("several", "match"): {"normal": "D", "chat": "D", "groupchat": "D", "headline": "D"},
    ("several", "full"): {"normal": "E", "chat": "A", "groupchat": "E", "headline": "S"},
}
# What §8.5.4 allows besides our choice (S/E), where another server may differ.
ALLOWED = {"E": "SE", "S": "SE", "O": "OE", "A": "A", "D": "D"}


@dataclass(eq=False)
class Recipient:
    """Somebody in one of the situations of the table."""

    jid: str
    eligible: list[Client]
    low: list[Client]

    @property
    def resources(self) -> list[Client]:
        return self.eligible + self.low


async def recipient(clients: Clients, server: Server, situation: str) -> Recipient:
    """Brings about a situation; the first resource is the one that a full JID names."""
    if situation == "unknown":
        return Recipient(f"nobody-at-all@{server.domain}", [], [])
    account = server.account()
    counts = {"offline": (0, 0), "negative": (0, 1), "one": (1, 1), "several": (2, 1)}
    good, low = counts[situation]
    eligible = [await clients.online(account, priority=i) for i in range(good)]
    negative = [await clients.online(account, priority=-1) for _ in range(low)]
    for client in (*eligible, *negative):
        await client.sync()
        client.drain()
    return Recipient(account.jid, eligible, negative)


AS_CHAT = pytest.mark.deviates(prosody="treats normal to a missing resource like chat")


def cells() -> list[object]:
    """One parameter set per cell of the table."""
    return [
        pytest.param(
            (situation, address, kind),
            row[kind],
            id=f"{kind}-{situation}-{address}",
            marks=[AS_CHAT]
            if (kind, address) == ("normal", "full") and situation != "unknown"
            else [],
        )
        for (situation, address), row in TABLE.items()
        for kind in TYPES
    ]


@pytest.mark.parametrize(("cell", "expected"), cells())
async def test_delivery_table(
    clients: Clients, server: Server, romeo: Client, cell: tuple[str, str, str], expected: str
) -> None:
    # RFC 6121 §8.5.4
    situation, address, kind = cell
    peer = await recipient(clients, server, situation)
    to = {
        "bare": peer.jid,
        "full": f"{peer.jid}/no-such-resource",
        "match": (peer.resources or [romeo])[0].jid,
    }[address]
    romeo.send(message(to, "hello", type=kind, id="m1"))
    await romeo.sync()
    for client in peer.resources:
        await client.sync()
    errors = [e for e in romeo.drain() if e.name == "message"]
    taken = [c for c in peer.resources if any(e.id == "m1" for e in c.drain())]
    stored = await offline(clients, peer) if not taken and situation != "unknown" else []
    if taken:
        outcome = "D" if address == "match" else "A"
        wanted = peer.resources[:1] if address == "match" else peer.eligible
        if server.kind == "antiphon":
            assert taken == wanted
        assert set(taken) <= set(wanted)
        assert not errors
    elif stored:
        outcome = "O"
    elif errors:
        outcome = "E"
        assert [(e.type, e.condition, e.id, e.frm) for e in errors] == [
            ("error", "service-unavailable", "m1", to)
        ]
    else:
        outcome = "S"
    allowed = expected if server.kind == "antiphon" else ALLOWED[expected]
    assert outcome in allowed


async def offline(clients: Clients, peer: Recipient) -> list[Element]:
    """What a new login with priority 0 is given."""
    owner = next(a for a in clients.server.handed_out if a.jid == peer.jid)
    late = await clients.online(owner, priority=0)
    await late.sync()
    return [e for e in late.drain() if e.name == "message" and e.id == "m1"]


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("address", ["bare", "full"])
async def test_error_message_is_silently_dropped(
    clients: Clients, server: Server, romeo: Client, situation: str, address: str
) -> None:
    # RFC 6121 §8.5.2.1.1, §8.5.3.2.1: an error is never answered and never stored
    peer = await recipient(clients, server, situation)
    to = peer.jid if address == "bare" else f"{peer.jid}/gone"
    error = E("error", None, E("bad-request", ns.STANZAS), type="modify")
    romeo.send(message(to, error, type="error", id="m1"))
    await romeo.expect_nothing("message", within_s=0.05)
    for client in peer.resources:
        await client.expect_nothing("message", within_s=0.05)


async def test_error_to_a_full_jid_is_delivered(romeo: Client, juliet: Client) -> None:
    error = E("error", None, E("gone", ns.STANZAS), type="cancel")
    romeo.send(message(juliet.jid, error, type="error", id="m1"))
    got = await juliet.expect("message", id="m1")
    assert (got.type, got.condition) == ("error", "gone")


@pytest.mark.deviates(prosody="stores for an account what it refuses for none")
async def test_unknown_account_answers_like_a_known_one(romeo: Client, juliet: Client) -> None:
    # RFC 6120 §10.2, §13.11: what a stranger learns must not depend on the account
    await juliet.offline()
    for stanza in ("full-normal", "groupchat"):
        answers = []
        for jid in (juliet.bare, f"nobody-at-all@{romeo.host}"):
            if stanza == "groupchat":
                romeo.send(message(jid, "x", type="groupchat", id="m1"))
            else:
                romeo.send(message(f"{jid}/gone", "x", id="m1"))
            await romeo.sync()
            answers.append([(e.type, e.condition, e.error_type) for e in romeo.drain()])
        assert answers[0] == answers[1]


@pytest.mark.ours("addresses are judged by PRECIS, not by stringprep")
async def test_unassigned_code_point_in_to_is_jid_malformed(romeo: Client) -> None:
    romeo.send(message(f"\u0378@{romeo.host}", "x", id="bad"))
    got = await romeo.expect("message", id="bad")
    assert (got.type, got.condition) == ("error", "jid-malformed")


# -- form of a message (RFC 6121 §5) ------------------------------------------------


async def test_message_is_stamped_and_otherwise_untouched(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §5.2, examples
    sent = message(
        juliet.jid,
        E("subject", None, "I implore you!"),
        E("subject", None, "Úpěnlivě prosím!", xml_lang="cs"),
        E("body", None, "Wherefore art thou, Romeo?"),
        E("body", None, "Pročež jsi ty, Romeo?", xml_lang="cs"),
        E("thread", None, "0e3141cd80894871a68e6fe6b1ec56fa", parent="e0ffe42b28561960"),
        E("unknown", "urn:example:unknown", E("deep", None, " \n kept \t"), attr="<'&\">"),
        type="chat",
        id="ktx72v49",
        xml_lang="en",
    )
    romeo.send(sent)
    got = await juliet.expect("message")
    assert (got.frm, got.to) == (romeo.jid, juliet.jid)
    del got.attrs["from"]
    # XEP-0313 #archives-id: the recipient's archive adds where it is.
    assert without_place(got).canonical() == sent.canonical()


async def test_to_is_never_rewritten_to_a_full_jid(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §8.5.2: the bare JID stays
    romeo.send(message(juliet.bare, "x", type="chat"))
    assert (await juliet.expect("message")).to == juliet.bare


async def test_unknown_type_is_treated_as_normal(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §5.2.2
    romeo.send(message(juliet.bare, "x", type="foo"))
    assert (await juliet.expect("message")).body == "x"


async def test_message_without_id_and_type_is_delivered(romeo: Client, juliet: Client) -> None:
    romeo.send(message(juliet.bare, "x"))
    got = await juliet.expect("message")
    assert got.type in (None, "normal")


async def test_message_without_to_is_for_the_own_account(clients: Clients, romeo: Client) -> None:
    # RFC 6120 §10.3.1
    phone = await clients.online(romeo)
    romeo.send(message(None, "note to self", type="chat"))
    assert (await phone.expect("message")).body == "note to self"


async def test_message_to_the_own_bare_jid_reaches_all_resources(
    clients: Clients, romeo: Client
) -> None:
    phone = await clients.online(romeo)
    romeo.send(message(romeo.bare, "self", type="chat"))
    for client in (phone, romeo):
        assert (await client.expect("message")).body == "self"


async def test_message_to_the_server_is_no_stream_error(romeo: Client) -> None:
    # RFC 6120 §10.5.1
    romeo.send(message(romeo.host, "hello server", type="chat"))
    await romeo.sync()


@pytest.mark.parametrize("to", ["@@", "a b@c d", "@nohost", "x@/", "a@b@c/"])
async def test_malformed_to_is_jid_malformed(romeo: Client, to: str) -> None:
    # RFC 6120 §8.3.3.8
    romeo.send(message(to, "x", id="bad"))
    got = await romeo.expect("message", id="bad")
    assert (got.type, got.condition) == ("error", "jid-malformed")
    assert got.error_type == "modify"


async def test_remote_domain_that_cannot_be_reached_is_answered(romeo: Client) -> None:
    # RFC 6120 §10.4: remote-server-not-found or -timeout
    romeo.send(message("romeo@does-not-exist.invalid", "x", id="far"))
    got = await romeo.expect("message", id="far", timeout_s=30)
    assert got.type == "error"
    assert got.condition in (
        "remote-server-not-found",
        "remote-server-timeout",
        "service-unavailable",
        "not-allowed",
    )


async def test_messages_arrive_in_order_over_bare_and_full_jid(
    romeo: Client, juliet: Client
) -> None:
    # RFC 6120 §10.1: bare and full JID of one user count as one recipient
    for i in range(100):
        romeo.send(message(juliet.jid if i % 2 else juliet.bare, str(i), type="chat"))
    seen = [(await juliet.expect("message")).body for _ in range(100)]
    assert seen == [str(i) for i in range(100)]


async def test_conversation_between_transports(clients: Clients, romeo: Client) -> None:
    web = await clients.online(kind="wss")
    direct = await clients.online(kind="direct")
    ring = [romeo, web, direct]
    for a, b in zip(ring, ring[1:] + ring[:1], strict=True):
        a.send(message(b.jid, f"from {a.user}"))
        assert (await b.expect("message")).body == f"from {a.user}"


# -- errors in general (RFC 6120 §8.3) -------------------------------------------------


async def test_error_swaps_addresses_and_keeps_the_id(romeo: Client) -> None:
    # RFC 6120 §8.3.1
    to = f"nobody-at-all@{romeo.host}"
    romeo.send(iq("get", E("query", ns.VERSION), to=to, id="v1"))
    got = await romeo.expect("iq", id="v1")
    assert (got.frm, got.to, got.type) == (to, romeo.jid, "error")
    assert got.error_type in ("cancel", "auth")


# -- IQ by address (RFC 6120 §8.2.3, RFC 6121 §8.5) ---------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<iq id='q' to='{host}'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='q' type='foo' to='{host}'><ping xmlns='urn:xmpp:ping'/></iq>",
        "<iq id='q' type='get' to='{host}'/>",
        "<iq id='q' type='get' to='{host}'><a xmlns='urn:a'/><b xmlns='urn:b'/></iq>",
    ],
    ids=["no type", "bad type", "no child", "two children"],
)
async def test_malformed_iq_is_bad_request(romeo: Client, text: str) -> None:
    # RFC 6120 §8.2.3
    romeo.send_raw(text.format(host=romeo.host))
    got = await romeo.expect("iq", id="q")
    assert (got.type, got.condition) == ("error", "bad-request")


async def test_iq_without_id_is_answered_with_an_error(romeo: Client) -> None:
    # RFC 6120 §8.1.3: the id is required
    romeo.send_raw(f"<iq type='get' to='{romeo.host}'><ping xmlns='urn:xmpp:ping'/></iq>")
    got = await romeo.next()
    assert got.type == "error" or got.name == "error"


@pytest.mark.parametrize("kind", ["get", "set"])
async def test_unknown_payload_to_server_and_account_is_service_unavailable(
    romeo: Client, kind: str
) -> None:
    # RFC 6120 §8.4
    for to in (romeo.host, romeo.bare, None):
        reply = await romeo.iq(kind, to=to, payload=E("query", "urn:example:unknown"))
        assert reply.type == "error"
        assert reply.condition in ("service-unavailable", "feature-not-implemented")


async def test_iq_to_a_strangers_bare_jid_never_reaches_a_client(
    romeo: Client, juliet: Client
) -> None:
    # RFC 6121 §8.5.2.1.3
    reply = await romeo.iq("get", to=juliet.bare, payload=E("query", "urn:example:unknown"))
    assert (reply.type, reply.condition) == ("error", "service-unavailable")
    await juliet.expect_nothing("iq", after=romeo)


async def test_iq_reaches_a_resource_without_presence(clients: Clients, romeo: Client) -> None:
    # RFC 6121 §8.5.3.1
    quiet = await clients.bound()
    romeo.send(iq("get", E("query", "urn:example:x"), to=quiet.jid, id="x1"))
    asked = await quiet.expect("iq", id="x1")
    quiet.answer(asked)
    assert (await romeo.expect("iq", id="x1")).type == "result"


@pytest.mark.parametrize("kind", ["result", "error"])
async def test_stray_answers_are_dropped(romeo: Client, juliet: Client, kind: str) -> None:
    # RFC 6121 §8.5.2: never answered
    for to in (juliet.bare, f"{juliet.bare}/gone", romeo.host, None, f"nobody@{romeo.host}"):
        child = E("error", None, E("gone", ns.STANZAS), type="cancel") if kind == "error" else None
        romeo.send(iq(kind, child, to=to, id="stray"))
    await romeo.expect_nothing("iq", within_s=0.1)
    await juliet.expect_nothing("iq", after=romeo)


async def test_every_request_is_answered_once(romeo: Client) -> None:
    ids = [romeo.send(iq("get", E("ping", ns.PING), to=romeo.host)) for _ in range(50)]
    answers = [(await romeo.expect("iq")).id for _ in range(50)]
    assert answers == ids
    await romeo.expect_nothing("iq", within_s=0.05)
