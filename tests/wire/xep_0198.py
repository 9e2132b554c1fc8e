# SPDX-License-Identifier: Apache-2.0
"""XEP-0198 Stream Management: acknowledgements, resumption, and what must not get lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element, iq, message, presence


async def resumable(clients: Clients, kind: str = "starttls") -> Client:
    """An available client with resumption enabled."""
    client = await clients.bound(kind=kind)
    await client.sm_enable()
    await client.roster()
    await client.online()
    return client


async def resume(
    clients: Clients, old: Client, h: int | None = None, kind: str = "starttls"
) -> Client:
    """A new stream that has resumed `old`'s session."""
    new = await clients.authenticated(old.account, kind)
    answer = await new.sm_resume(old, h)
    assert answer.name == "resumed", f"not resumed: {answer}"
    assert answer.get("previd") == (old.sm.id if old.sm else None)
    return new


async def acknowledged(client: Client, count: int) -> None:
    """Waits until `h` covers so many stanzas: of messages it covers what is on disk."""
    deadline = time.monotonic() + 8
    while await client.sm_request() < count:
        assert time.monotonic() < deadline, "not acknowledged"
        await asyncio.sleep(0.01)


def bodies(client: Client) -> list[str | None]:
    """The bodies of the messages in the inbox, which are taken."""
    return [e.body for e in client.drain() if e.name == "message"]


# -- enabling (XEP-0198 #enable) ----------------------------------------------------


async def test_feature_is_offered_after_authentication(clients: Clients) -> None:
    # XEP-0198 #feature, example 1; never before authentication
    client = await clients.stream()
    assert not client.features.has("sm", ns.SM)
    await client.authenticate()
    assert client.features.has("sm", ns.SM)


async def test_enable_without_resumption(clients: Clients) -> None:
    # XEP-0198 example 3 on: no id without resume
    client = await clients.bound()
    answer = await client.sm_enable(resume=None)
    assert answer.get("resume") in (None, "false", "0")
    assert answer.get("id") is None


async def test_enable_with_resumption_gives_id_and_time(clients: Clients) -> None:
    # XEP-0198 #resumption, examples
    client = await clients.bound()
    answer = await client.sm_enable()
    assert answer.get("resume") in ("true", "1")
    assert len(answer.get("id") or "") >= 10
    assert int(answer.get("max") or 0) > 0


async def test_resume_flag_may_be_written_as_1(clients: Clients) -> None:
    client = await clients.bound()
    client.send(E("enable", ns.SM, resume="1"))
    answer = await client.expect("enabled")
    assert answer.get("id")


@pytest.mark.ours("the granted time is the smaller of the wishes")
async def test_wish_for_a_shorter_time_is_granted(clients: Clients) -> None:
    client = await clients.bound()
    answer = await client.sm_enable(max="30")
    assert int(answer.get("max") or 0) <= 30


async def test_enable_before_bind_fails(clients: Clients) -> None:
    # XEP-0198 #enable: unexpected-request
    client = await clients.authenticated()
    client.send(E("enable", ns.SM))
    answer = await client.next()
    assert answer.name in ("failed", "error")
    if answer.name == "failed":
        assert answer.condition == "unexpected-request"


async def test_enable_before_authentication_fails(clients: Clients) -> None:
    client = await clients.stream()
    client.send(E("enable", ns.SM))
    answer = await client.next()
    assert answer.name in ("failed", "error")


async def test_enable_twice_is_refused(clients: Clients) -> None:
    client = await clients.bound()
    await client.sm_enable()
    client.send(E("enable", ns.SM))
    answer = await client.next()
    assert answer.name in ("failed", "error")


async def test_ids_are_unguessable_and_differ(clients: Clients) -> None:
    ids = set()
    for _ in range(3):
        client = await clients.bound()
        ids.add((await client.sm_enable()).get("id"))
    assert len(ids) == 3


# -- acknowledgements (XEP-0198 #acking) ---------------------------------------------


async def test_server_counts_stanzas_only(clients: Clients, juliet: Client) -> None:
    # XEP-0198 #acking: message, presence, iq; no nonza, no whitespace
    client = await clients.bound()
    await client.sm_enable()
    assert await client.sm_request() == 0
    client.send(presence())
    client.send_raw(" \n ")
    client.send(message(juliet.jid, "one"))
    client.send(E("a", ns.SM, h="0"))
    await client.sync()
    await acknowledged(client, 3)
    assert await client.sm_request() == 3


async def test_errors_and_dropped_stanzas_count_too(clients: Clients) -> None:
    client = await clients.bound()
    await client.sm_enable()
    client.send(message("@@", "malformed address"))
    client.send(iq("result", id="stray"))
    client.send(presence(to=f"nobody@{client.host}", type="unavailable"))
    await client.sync()
    assert await client.sm_request() == 4


async def test_h_is_a_prefix_of_what_was_sent(clients: Clients, juliet: Client) -> None:
    client = await clients.bound()
    await client.sm_enable()
    last = 0
    for i in range(50):
        client.send(message(juliet.jid, str(i)))
        client.send(E("r", ns.SM))
    for _ in range(50):
        h = int((await client.expect("a")).get("h") or -1)
        assert last <= h <= 50
        last = h
    await client.sync()
    await acknowledged(client, 51)


async def test_server_asks_for_acknowledgements(clients: Clients, romeo: Client) -> None:
    client = await resumable(clients)
    for i in range(20):
        romeo.send(message(client.jid, str(i)))
    await client.expect("r")


async def test_acknowledgement_in_pieces_is_accepted(clients: Clients, romeo: Client) -> None:
    client = await resumable(clients)
    for i in range(10):
        romeo.send(message(client.jid, str(i)))
        await client.expect("message")
        client.sm_ack()
    await client.sync()


@pytest.mark.deviates(prosody="names no application condition")
async def test_too_high_h_is_a_stream_error(clients: Clients) -> None:
    # XEP-0198 #errors: undefined-condition with handled-count-too-high
    client = await resumable(clients)
    assert client.sm is not None
    client.sm_ack(client.sm.received + 50)
    error = await client.expect_stream_error("undefined-condition", "policy-violation")
    if error.condition == "undefined-condition":
        high = error.at(("handled-count-too-high", ns.SM))
        assert high.get("h") == str(client.sm.received + 50)
        assert high.get("send-count") is not None


@pytest.mark.parametrize("h", ["-1", "abc", "4294967296", None])
@pytest.mark.deviates(prosody="closes without a stream error or takes it as 0")
async def test_malformed_h_ends_the_stream(clients: Clients, h: str | None) -> None:
    client = await resumable(clients)
    client.send(E("a", ns.SM, h=h))
    await client.expect_stream_error(
        "undefined-condition", "invalid-xml", "bad-format", "policy-violation"
    )


async def test_nonzas_without_enable_are_refused(clients: Clients) -> None:
    client = await clients.bound()
    client.send(E("r", ns.SM))
    try:
        answer = await client.next(timeout_s=1)
    except AssertionError:
        return
    assert answer.name in ("failed", "error", "a")


# -- resumption (XEP-0198 #resumption) -------------------------------------------------


CROSSED = pytest.mark.deviates(prosody="breaks the stream that resumes over another transport")


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("starttls", "starttls"),
        ("direct", "direct"),
        ("wss", "wss"),
        ("starttls", "direct"),
        pytest.param("starttls", "wss", marks=CROSSED),
        pytest.param("wss", "starttls", marks=CROSSED),
    ],
)
async def test_cut_session_is_resumed_and_nothing_is_lost(
    clients: Clients, romeo: Client, kind: str, other: str
) -> None:
    # XEP-0198 #resumption: <resumed previd= h=/>, then what was not acknowledged
    old = await resumable(clients, kind)
    old.abort()
    await old.expect_eof()
    sent = [f"m{i}" for i in range(20)]
    for text in sent:
        romeo.send(message(old.jid, text, type="chat"))
    await romeo.sync()
    new = await resume(clients, old, kind=other)
    await new.sync()
    assert bodies(new) == sent


async def test_resumed_carries_the_servers_count(clients: Clients, juliet: Client) -> None:
    old = await resumable(clients)
    for _ in range(3):
        old.send(message(juliet.jid, "x"))
    await old.sync()
    assert old.sm is not None
    old.abort()
    new = await clients.authenticated(old.account)
    answer = await new.sm_resume(old)
    assert (answer.name, answer.get("h")) == ("resumed", str(old.sm.sent))


async def test_resumed_session_keeps_its_address_and_works(clients: Clients, romeo: Client) -> None:
    old = await resumable(clients)
    old.abort()
    new = await resume(clients, old)
    new.send(message(romeo.jid, "from the same address"))
    assert (await romeo.expect("message")).frm == old.jid
    romeo.send(message(old.bare, "to the bare one", type="chat"))
    assert (await new.expect("message")).body == "to the bare one"


async def test_what_was_acknowledged_is_not_resent(clients: Clients, romeo: Client) -> None:
    old = await resumable(clients)
    for i in range(4):
        romeo.send(message(old.jid, str(i)))
        await old.expect("message")
    assert old.sm is not None
    total = old.sm.received
    old.abort()
    new = await resume(clients, old, total - 2)
    await new.sync()
    assert bodies(new) == ["2", "3"]


async def test_order_is_kept_across_the_cut(clients: Clients, romeo: Client) -> None:
    old = await resumable(clients)
    for i in range(5):
        romeo.send(message(old.jid, str(i)))
        await old.expect("message")
    assert old.sm is not None
    seen = old.sm.received
    old.abort()
    await old.expect_eof()
    for i in range(5, 10):
        romeo.send(message(old.jid, str(i)))
    await romeo.sync()
    new = await resume(clients, old, seen - 3)
    romeo.send(message(old.jid, "live"))
    await new.wait_for(lambda: any(e.body == "live" for e in new.inbox), 5, "live message")
    assert bodies(new) == [*[str(i) for i in range(2, 10)], "live"]


async def test_no_presence_traffic_on_resumption(clients: Clients) -> None:
    romeo = await clients.online()
    old = await resumable(clients)
    await clients.friends(romeo, old)
    old.abort()
    new = await resume(clients, old)
    await new.sync()
    assert [e for e in new.drain() if e.name == "presence"] == []
    assert [e for e in romeo.drain() if e.name == "presence"] == []


async def test_dead_resumable_session_stays_available(clients: Clients) -> None:
    # XEP-0198 #resumption: its presence is not ended before the time is over
    romeo = await clients.online()
    old = await resumable(clients)
    await clients.friends(romeo, old)
    old.abort()
    await romeo.expect_nothing("presence", type="unavailable", within_s=0.5)


async def test_closed_stream_is_not_resumable(clients: Clients) -> None:
    # XEP-0198 #close: </stream:stream> ends the session
    old = await resumable(clients)
    await old.close()
    new = await clients.authenticated(old.account)
    answer = await new.sm_resume(old)
    assert (answer.name, answer.condition) == ("failed", "item-not-found")


async def test_closed_stream_is_unavailable_at_once(clients: Clients) -> None:
    romeo = await clients.online()
    old = await resumable(clients)
    await clients.friends(romeo, old)
    await old.close()
    await romeo.expect("presence", type="unavailable", from_=old.jid)


async def test_session_without_resume_is_not_resumable(clients: Clients) -> None:
    old = await clients.bound()
    await old.sm_enable(resume=None)
    assert old.sm is not None
    old.sm.id = "nothing"
    old.abort()
    new = await clients.authenticated(old.account)
    assert (await new.sm_resume(old)).name == "failed"


@pytest.mark.parametrize("previd", ["some-guess", "", "x" * 2000, "<&'\">"])
async def test_resume_with_wrong_id_fails_with_item_not_found(
    clients: Clients, previd: str
) -> None:
    # XEP-0198 #resumption, example of <failed/>; attack 12
    client = await clients.authenticated()
    client.send(E("resume", ns.SM, previd=previd, h="0"))
    answer = await client.next()
    assert (answer.name, answer.condition) == ("failed", "item-not-found")
    await client.bind()  # the stream goes on


@pytest.mark.deviates(prosody="calls a missing attribute item-not-found or fails")
@pytest.mark.parametrize("attrs", [{"h": "0"}, {"previd": "x"}, {"previd": "x", "h": "abc"}])
async def test_malformed_resume_fails(clients: Clients, attrs: dict[str, str]) -> None:
    client = await clients.authenticated()
    client.send(E("resume", ns.SM, **attrs))
    answer = await client.next()
    assert answer.name in ("failed", "error")


async def test_resume_with_another_users_id_fails_alike(clients: Clients) -> None:
    # attack 12: nothing tells an id of somebody else from none
    old = await resumable(clients)
    thief = await clients.authenticated()
    answer = await thief.sm_resume(old)
    assert (answer.name, answer.condition, answer.get("h")) == ("failed", "item-not-found", None)
    await old.sync()


async def test_resume_before_authentication_fails(clients: Clients) -> None:
    old = await resumable(clients)
    client = await clients.stream(account=old.account)
    assert old.sm is not None
    client.send(E("resume", ns.SM, previd=old.sm.id, h="0"))
    assert (await client.next()).name in ("failed", "error")


async def test_resume_after_bind_is_refused(clients: Clients) -> None:
    # XEP-0198 #resumption: only before a resource is bound
    old = await resumable(clients)
    old.abort()
    client = await clients.bound(old)
    assert old.sm is not None
    client.send(E("resume", ns.SM, previd=old.sm.id, h="0"))
    answer = await client.next()
    assert answer.name in ("failed", "error")
    if answer.name == "failed":
        assert answer.condition in ("unexpected-request", "item-not-found")


async def test_resume_with_too_high_h_is_a_stream_error(clients: Clients) -> None:
    old = await resumable(clients)
    old.abort()
    new = await clients.authenticated(old.account)
    assert old.sm is not None
    new.send(E("resume", ns.SM, previd=old.sm.id, h=str(old.sm.received + 100)))
    try:
        answer = await new.next()
    except AssertionError:
        return
    assert answer.name in ("error", "failed")


async def test_resume_while_the_old_connection_lives_takes_it_over(
    clients: Clients, romeo: Client
) -> None:
    # requirements 4.1: the old one is closed with conflict, without unavailable presence
    old = await resumable(clients)
    await clients.friends(romeo, old)
    new = await resume(clients, old)
    await old.expect_end()
    romeo.send(message(new.jid, "to the new one"))
    assert (await new.expect("message")).body == "to the new one"
    assert not [e for e in romeo.drain() if e.type == "unavailable"]


@pytest.mark.deviates(prosody="closes without a condition")
async def test_taken_over_connection_sees_conflict(clients: Clients) -> None:
    old = await resumable(clients)
    await resume(clients, old)
    await old.expect_stream_error("conflict")


async def test_only_one_of_two_resumptions_wins(clients: Clients, romeo: Client) -> None:
    # requirements 4.1 and attack 12: race of two connections
    old = await resumable(clients)
    old.abort()
    pair = [await clients.authenticated(old.account) for _ in range(2)]
    answers = await asyncio.gather(*(c.sm_resume(old) for c in pair), return_exceptions=True)
    won = [
        c
        for c, a in zip(pair, answers, strict=True)
        if isinstance(a, Element) and a.name == "resumed"
    ]
    assert won
    romeo.send(message(old.jid, "once"))
    await romeo.sync()
    await asyncio.sleep(0.3)
    assert sum(bodies(c).count("once") for c in won) == 1


async def test_session_can_be_resumed_again_and_again(clients: Clients, romeo: Client) -> None:
    client = await resumable(clients)
    for i in range(4):
        romeo.send(message(client.jid, f"before {i}"))
        await client.expect("message")
        client.abort()
        await client.expect_eof()
        romeo.send(message(client.jid, f"gap {i}"))
        await romeo.sync()
        client = await resume(clients, client)
        assert (await client.expect("message")).body == f"gap {i}"


async def test_iq_answered_across_a_resumption(clients: Clients, romeo: Client) -> None:
    old = await resumable(clients)
    old.send(iq("get", E("query", "urn:example:q"), to=romeo.jid, id="late"))
    asked = await romeo.expect("iq", id="late")
    old.abort()
    await old.expect_eof()
    romeo.answer(asked)
    await romeo.sync()
    new = await resume(clients, old)
    assert (await new.expect("iq", id="late")).type == "result"


# -- the end of the time -----------------------------------------------------------------


@pytest.mark.ours("node.resume_location")
@pytest.mark.settings(node={"resume_location": "a.example.org:5223"})
async def test_enabled_says_where_to_resume(clients: Clients) -> None:
    # XEP-0198 #enable: location, where resumption is possible at all
    client = await clients.bound()
    assert (await client.sm_enable()).get("location") == "a.example.org:5223"
    other = await clients.bound()
    assert (await other.sm_enable(resume=None)).get("location") is None


@pytest.mark.ours("sm_resume_seconds")
@pytest.mark.settings(limits={"sm_resume_seconds": 1})
async def test_expired_session_ends_unavailable_and_its_messages_are_kept(
    clients: Clients, romeo: Client
) -> None:
    # XEP-0198 #resumption: unacknowledged messages go where a new one would
    old = await resumable(clients)
    await clients.friends(romeo, old)
    old.abort()
    await old.expect_eof()
    romeo.send(message(old.jid, "kept", type="chat"))
    await romeo.expect("presence", type="unavailable", from_=old.jid, timeout_s=10)
    late = await clients.online(old)
    got = await late.expect("message")
    assert got.body == "kept"
    assert got.has("delay", ns.DELAY)


@pytest.mark.ours("(id, h) is remembered after expiry")
@pytest.mark.settings(limits={"sm_resume_seconds": 1})
async def test_failed_after_expiry_carries_h(clients: Clients, romeo: Client) -> None:
    # XEP-0198 #resumption: <failed h=/> tells what was handled
    old = await resumable(clients)
    await clients.friends(romeo, old)
    old.send(message(romeo.jid, "handled"))
    await old.sync()
    assert old.sm is not None
    old.abort()
    await romeo.expect("presence", type="unavailable", from_=old.jid, timeout_s=10)
    new = await clients.authenticated(old.account)
    answer = await new.sm_resume(old)
    assert (answer.name, answer.condition) == ("failed", "item-not-found")
    assert answer.get("h") == str(old.sm.sent)


@pytest.mark.ours("sm_queue_stanzas")
@pytest.mark.settings(limits={"sm_queue_stanzas": 20})
async def test_full_queue_ends_the_session_not_the_node(clients: Clients, romeo: Client) -> None:
    # requirements 4.1: the queue is capped; what it held is not lost
    old = await resumable(clients)
    old.abort()
    await old.expect_eof()
    for i in range(40):
        romeo.send(message(old.jid, str(i), type="chat"))
    await romeo.sync()
    new = await clients.authenticated(old.account)
    answer = await new.sm_resume(old)
    assert answer.name == "failed"
    await new.bind()
    await new.online()
    seen = [(await new.expect("message")).body for _ in range(40)]
    assert sorted(seen, key=lambda b: int(b or 0)) == [str(i) for i in range(40)]


async def test_unacknowledged_messages_survive_the_end_of_the_session(
    clients: Clients, romeo: Client
) -> None:
    # XEP-0198 #scenarios: what was delivered to a dead stream goes to offline storage
    client = await clients.bound()
    await client.sm_enable(resume=None)
    await client.online()
    client.pause()
    romeo.send(message(client.bare, "into the void", type="chat"))
    await romeo.sync()
    client.abort()
    await asyncio.sleep(0.3)
    late = await clients.online(client)
    assert (await late.expect("message")).body == "into the void"


# -- whole -----------------------------------------------------------------------------------


async def test_many_messages_over_a_line_that_is_cut_arrive_once_and_in_order(
    clients: Clients,
) -> None:
    # requirements 4.1 T: cut at random places, both ways, no loss, no duplicate by id
    a, b = await resumable(clients), await resumable(clients)
    total, per_cut = 600, 40
    received: list[str] = []
    for start in range(0, total, per_cut):
        for i in range(start, start + per_cut):
            a.send(message(b.jid, "x" * (i % 50), id=f"n{i}"))
        await a.sync()
        received += _ids(b)
        b.abort()
        b = await resume(clients, b)
    for _ in range(100):
        received += _ids(b)
        if len(received) >= total:
            break
        await asyncio.sleep(0.05)
    assert received == [f"n{i}" for i in range(total)]


def _ids(client: Client) -> list[str]:
    return [e.id or "" for e in client.drain() if e.name == "message"]
