# SPDX-License-Identifier: Apache-2.0
"""Who claims to be another, and who asks about others: cases 10 and 13 to 17 of README.md.

A claim is either refused with an error or arrives with its true sender. A question about somebody
else gets the same answer whether there is such an account or not, and at the same pace.
"""

from __future__ import annotations

import asyncio
import re
import time
from statistics import median

import pytest

from support import ns
from support.client import Client, StreamClosed
from support.component import Component
from support.play import Clients
from support.server import Server
from support.xml import E, Element, iq, message, presence

pytestmark = pytest.mark.ours("other servers overwrite, ignore or answer")

# -- 13: forged senders --------------------------------------------------------------------------

STANZAS = {
    "message": "<message from='{frm}' to='{to}' type='chat'><body>forged</body></message>",
    "presence": "<presence from='{frm}' to='{to}'/>",
    "subscribe": "<presence from='{frm}' to='{bare}' type='subscribe'/>",
    "subscribed": "<presence from='{frm}' to='{bare}' type='subscribed'/>",
    "get": "<iq from='{frm}' to='{to}' type='get' id='1'><query xmlns='jabber:iq:version'/></iq>",
    "result": "<iq from='{frm}' to='{to}' type='result' id='1'/>",
    "push": (
        "<iq from='{frm}' to='{to}' type='set' id='1'><query xmlns='jabber:iq:roster'>"
        "<item jid='evil@example.com' subscription='both'/></query></iq>"
    ),
}


def forgeries(romeo: Client, juliet: Client) -> dict[str, str]:
    """Addresses that are not Romeo's."""
    return {
        "the recipient": juliet.bare,
        "the recipient's resource": juliet.jid,
        "another resource": f"{romeo.bare}/another",
        "another's name on our resource": f"{juliet.bare}/{romeo.resource}",
        "the server": romeo.host,
        "nothing on the server": f"nobody@{romeo.host}",
        "a foreign server": "boss@example.org",
        "a longer domain": f"{romeo.user}@x.{romeo.host}",
        "a blank behind": f"{romeo.jid} ",
        "no address": "@",
        "empty": "",
    }


@pytest.mark.parametrize("stanza", STANZAS.values(), ids=STANZAS)
async def test_a_stanza_with_another_sender_never_arrives_as_his(
    clients: Clients, juliet: Client, stanza: str
) -> None:
    # RFC 6120 §8.1.2.1: refuse, or overwrite with the true address
    probe = await clients.bound(resource="orchard")
    for kind, frm in forgeries(probe, juliet).items():
        client = await clients.bound(resource="orchard")
        claimed = frm.replace(probe.bare, client.bare).replace(probe.user, client.user)
        client.send_raw(stanza.format(frm=claimed, to=juliet.jid, bare=juliet.bare))
        try:
            await client.sync()
        except StreamClosed:
            errors = [e.condition for e in client.inbox if e.tag == ("error", ns.STREAM)]
            assert not errors or errors[0] in ("invalid-from", "improper-addressing"), kind
        for got in juliet.drain():
            assert got.frm in (client.jid, client.bare), f"{kind}: {got}"
    assert not [i for i in (await juliet.roster()).all("item") if "evil" in str(i)]


@pytest.mark.parametrize("stanza", STANZAS.values(), ids=STANZAS)
async def test_a_component_speaks_for_its_own_domain_only(
    server: Server, clients: Clients, juliet: Client, stanza: str
) -> None:
    # XEP-0114 #proto; also a domain that only ends or begins alike
    domain = server.component_domain
    for frm in (
        juliet.bare,
        server.domain,
        f"x.{domain}",
        f"x@evil{domain}",
        f"x@{domain}.example.org",
        f"x@{domain.partition('.')[2]}/{domain}",
        "",
    ):
        component = await Component(server).login()
        clients.made.append(component)
        component.send_raw(stanza.format(frm=frm, to=juliet.jid, bare=juliet.bare))
        await component.expect_stream_error("invalid-from", "improper-addressing")
        assert juliet.drain() == [], frm


async def test_an_answer_of_a_third_party_arrives_as_his(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # a guessed id makes no answer: who asked can tell by the sender (RFC 6120 §8.2.3)
    thief = await clients.online()
    romeo.send(iq("get", E("query", ns.VERSION), to=juliet.jid, id="guess"))
    await juliet.expect("iq", id="guess")
    for kind in ("result", "error"):
        error = E("error", None, E("gone", ns.STANZAS), type="cancel")
        payload = error if kind == "error" else E("query", ns.VERSION)
        thief.send(iq(kind, payload, to=romeo.jid, id="guess"))
    await thief.sync()
    assert {e.frm for e in romeo.drain()} <= {thief.jid}
    juliet.send(iq("result", E("query", ns.VERSION), to=romeo.jid, id="guess"))
    assert (await romeo.expect("iq", id="guess")).frm == juliet.jid


async def test_an_answer_for_another_to_the_server_is_nothing(
    clients: Clients, juliet: Client
) -> None:
    # the server has asked Juliet about her capabilities (XEP-0115 #discover); Romeo answers
    romeo = await clients.online()
    caps = E("c", ns.CAPS, hash="sha-1", node="urn:x", ver=f"{juliet.user}AAAAAAAAAAAAAAAAAAAAAA=")
    juliet.send(presence(caps))
    asked = await juliet.expect("iq", type="get")
    assert asked.frm in (juliet.host, juliet.bare)
    for to in (None, romeo.host, romeo.bare, juliet.bare, str(asked.frm)):
        romeo.send(iq("result", asked.payload, to=to, id=asked.id))
    await romeo.sync()
    await juliet.expect_nothing("iq", after=romeo)
    juliet.answer(asked, E("query", ns.DISCO_INFO))
    await juliet.sync()


# -- 14 and 15: payloads that only a server may make ------------------------------------------------


def inner(frm: str, to: str) -> Element:
    """A forwarded message that never was."""
    return E("forwarded", ns.FORWARD, message(to, "forged", from_=frm, type="chat"))


@pytest.mark.parametrize("way", ["sent", "received"])
@pytest.mark.parametrize("kind", ["chat", "normal", "headline", "error", "groupchat"])
async def test_a_carbon_from_another_resource_shows_which(
    clients: Clients, romeo: Client, way: str, kind: str
) -> None:
    # XEP-0280 #security: only the bare address of the account may send these
    phone = await clients.online(romeo)
    await romeo.iq("set", payload=E("enable", ns.CARBONS))
    romeo.drain()
    carbon = E(way, ns.CARBONS, inner("boss@example.org", romeo.bare))
    for to in (romeo.jid, romeo.bare):
        for frm in (None, phone.bare, phone.jid):
            phone.send(message(to, carbon, "x", type=kind, from_=frm))
    await phone.sync()
    for got in romeo.drain():
        if got.child(way, ns.CARBONS) is None:
            continue
        content = got.at((way, ns.CARBONS), ("forwarded", ns.FORWARD), ("message", ns.CLIENT))
        assert got.frm == phone.jid or content.body != "forged", str(got)


async def test_a_component_cannot_forge_a_carbon(component: Component, romeo: Client) -> None:
    await romeo.iq("set", payload=E("enable", ns.CARBONS))
    for way in ("sent", "received"):
        content = E(way, ns.CARBONS, inner("boss@example.org", romeo.bare))
        frm = component.address("x")
        component.send(message(romeo.jid, content, type="chat", from_=frm))
        assert (await romeo.expect("message")).frm == frm
    await romeo.expect_nothing("message", within_s=0.05)


async def test_marks_of_the_server_are_not_taken_from_clients(
    romeo: Client, juliet: Client
) -> None:
    # XEP-0203 #security, XEP-0359 #rules: what claims to be ours and is not goes, every copy of it
    forged = [
        E("delay", ns.DELAY, from_=by, stamp="2002-09-10T23:08:25Z")
        for by in (romeo.host, romeo.host.upper(), juliet.bare, juliet.bare)
    ]
    romeo.send(message(juliet.jid, *forged, "x", type="chat"))
    got = await juliet.expect("message")
    assert [d.frm for d in got.all("delay", ns.DELAY) if d.frm and "@" not in d.frm] == []
    for target in (romeo.host, romeo.bare):
        info = await romeo.iq("get", to=target, payload=E("query", ns.DISCO_INFO))
        query = info.at(("query", ns.DISCO_INFO))
        features = {f.get("var") for f in query.all("feature")}
        if ns.SID not in features:
            continue  # without the announcement nobody may believe a stanza-id (XEP-0359 #disco)
        ids = [E("stanza-id", ns.SID, id="forged", by=juliet.bare) for _ in range(2)]
        romeo.send(message(juliet.jid, *ids, "y", type="chat"))
        got = await juliet.expect("message")
        assert "forged" not in [i.id for i in got.all("stanza-id", ns.SID)]


async def test_nobody_writes_or_reads_what_is_anothers(romeo: Client, juliet: Client) -> None:
    # roster, block list, private storage, vCard, registration of another account
    item = E("item", None, jid="evil@example.com")
    requests = [
        iq("set", E("query", ns.ROSTER, item)),
        iq("get", E("query", ns.ROSTER)),
        iq("set", E("block", ns.BLOCKING, item)),
        iq("get", E("blocklist", ns.BLOCKING)),
        iq("set", E("query", ns.PRIVATE, E("x", "urn:x"))),
        iq("get", E("query", ns.PRIVATE, E("x", "urn:x"))),
        iq("set", E("vCard", ns.VCARD, E("FN", None, "evil"))),
        iq("set", E("query", ns.REGISTER, E("remove"))),
        iq("set", E("enable", ns.CARBONS)),
        iq("set", E("bind", ns.BIND)),
        iq("set", E("command", ns.COMMANDS, node=f"{ns.ADMIN}#delete-user")),
    ]
    for to in (juliet.bare, juliet.jid):
        for request in requests:
            request.attrs.pop("id", None)
            request.attrs["to"] = to
            sent = romeo.send(request)
            if to == juliet.jid:
                await romeo.sync()
                for got in juliet.drain():
                    assert got.frm == romeo.jid
            else:
                answer = await romeo.expect("iq", id=sent)
                assert answer.type == "error", str(answer)
    assert (await juliet.roster()).at(("query", ns.ROSTER)).children == []
    blocked = await juliet.iq("get", payload=E("blocklist", ns.BLOCKING))
    assert blocked.at(("blocklist", ns.BLOCKING)).children == []


# -- 16: capabilities -------------------------------------------------------------------------------

WRONG = {
    "another's features": E("query", ns.DISCO_INFO, E("feature", None, var="urn:xmpp:evil")),
    "nothing": E("query", ns.DISCO_INFO),
    "not even a query": E("x", "urn:x"),
    "two identities alike": E(
        "query",
        ns.DISCO_INFO,
        *[E("identity", None, category="client", type="pc") for _ in range(2)],
    ),
    "separators in a feature": E("query", ns.DISCO_INFO, E("feature", None, var="a<b<c//<")),
    "much": E(
        "query", ns.DISCO_INFO, *[E("feature", None, var=f"urn:x:{i}") for i in range(2_000)]
    ),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_a_wrong_answer_about_capabilities_harms_nobody(
    clients: Clients, romeo: Client, answer: Element
) -> None:
    # XEP-0115 #security-poisoning; that it is not remembered: tests/unit/xep/test_caps.py
    ver = f"{romeo.user}+{len(str(answer))}"
    romeo.send(presence(E("c", ns.CAPS, hash="sha-1", node="urn:x", ver=ver)))
    asked = await romeo.expect("iq", type="get")
    assert asked.at(("query", ns.DISCO_INFO)).get("node") == f"urn:x#{ver}"
    romeo.send(iq("result", answer, to=asked.frm, id=asked.id))
    await romeo.sync()
    other = await clients.online()
    await other.sync()


async def test_capabilities_that_change_all_the_time_do_not_flood(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # one question for each new hash at most, and others are served meanwhile
    for i in range(300):
        romeo.send(presence(E("c", ns.CAPS, hash="sha-1", node="urn:x", ver=f"{romeo.user}-{i}")))
    await romeo.sync()
    began = time.monotonic()
    await juliet.sync()
    assert time.monotonic() - began < 2
    assert len([e for e in romeo.drain() if e.name == "iq"]) <= 300


# -- 17: who is there ------------------------------------------------------------------------------

QUESTIONS = {
    "chat": lambda to: message(to, "x", type="chat"),
    "normal": lambda to: message(to, "x"),
    "headline": lambda to: message(to, "x", type="headline"),
    "groupchat": lambda to: message(to, "x", type="groupchat"),
    "probe": lambda to: presence(type="probe", to=to),
    "subscribe": lambda to: presence(type="subscribe", to=to),
    "subscribed": lambda to: presence(type="subscribed", to=to),
    "unsubscribe": lambda to: presence(type="unsubscribe", to=to),
    "unsubscribed": lambda to: presence(type="unsubscribed", to=to),
    "directed": lambda to: presence(to=to),
    "disco info": lambda to: iq("get", E("query", ns.DISCO_INFO), to=to),
    "disco items": lambda to: iq("get", E("query", ns.DISCO_ITEMS), to=to),
    "ping": lambda to: iq("get", E("ping", ns.PING), to=to),
    "last activity": lambda to: iq("get", E("query", ns.LAST), to=to),
    "version": lambda to: iq("get", E("query", ns.VERSION), to=to),
    "time": lambda to: iq("get", E("time", ns.TIME), to=to),
    "vcard": lambda to: iq("get", E("vCard", ns.VCARD), to=to),
    "roster": lambda to: iq("get", E("query", ns.ROSTER), to=to),
    "private": lambda to: iq("get", E("query", ns.PRIVATE, E("x", "urn:x")), to=to),
    "block list": lambda to: iq("get", E("blocklist", ns.BLOCKING), to=to),
    "carbons": lambda to: iq("set", E("enable", ns.CARBONS), to=to),
    "commands": lambda to: iq("set", E("command", ns.COMMANDS, node="x"), to=to),
    "unknown": lambda to: iq("get", E("x", "urn:unknown"), to=to),
    "result": lambda to: iq("result", None, to=to),
}


KEPT = ("chat", "normal")
"""What is stored for an account whose user is away."""


async def answers(asker: Client, question: str, jid: str) -> list[str]:
    """All that comes back to one question, the asked address taken out."""
    asker.drain()
    stanza = QUESTIONS[question](jid)
    stanza.attrs["id"] = "q"
    asker.send(stanza)
    await asker.sync()
    await asyncio.sleep(0.05)
    bare = jid.partition("/")[0]
    found = []
    for got in asker.drain():
        text = got.xml().replace(bare, "WHOM")
        # what the asker's own roster says of it has a number and an id that count on
        found.append(re.sub(r' (ver|id)="(roster-)?\d+"', "", text))
    return sorted(found)


@pytest.mark.parametrize("resource", ["", "/gone", "/balcony"])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_stranger_learns_nothing_of_an_account(
    clients: Clients, server: Server, question: str, resource: str
) -> None:
    # RFC 6120 §13.11, RFC 6121 §8.5.1: nobody, somebody who is away, somebody who is there
    asker = await clients.online()
    away = server.account()
    there = await clients.online(resource="verona")
    got = {
        name: await answers(asker, question, jid + resource)
        for name, jid in (
            ("nobody", f"nobody-{asker.user}@{server.domain}"),
            ("away", away.jid),
            ("there", there.bare),
        )
    }
    if question in KEPT and (question, resource) != ("normal", "/gone"):
        # RFC 6121 §8.5.1 b against §8.5.2.2.1: who errs in an address is told, what can be kept is
        # kept, and that much it tells; but not who is online
        assert got["there"] == got["away"], "tells that somebody is online"
        return
    assert got["away"] == got["nobody"], "tells that there is such an account"
    assert got["there"] == got["nobody"], "tells that somebody is online"


@pytest.mark.parametrize("question", ["ping", "disco info", "probe", "vcard", "last activity"])
async def test_answers_about_nobody_take_as_long(
    clients: Clients, server: Server, question: str
) -> None:
    # the middle of many, in turns, so that what else the machine does hits both
    asker = await clients.online()
    names = {"there": server.account().jid, "nobody": f"nobody-{asker.user}@{server.domain}"}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(60):
        for name, jid in names.items():
            stanza = QUESTIONS[question](jid)
            began = time.perf_counter()
            asker.send(stanza)
            await asker.sync()
            times[name].append(time.perf_counter() - began)
    asker.drain()
    there, nobody = (median(times[name]) for name in ("there", "nobody"))
    assert abs(there - nobody) < max(0.003, 0.5 * max(there, nobody)), times


async def test_who_was_nobody_a_moment_ago_gets_the_next_message(
    clients: Clients, server: Server
) -> None:
    # that nobody is there is remembered, so that messages to nobody cost no read each
    asker = await clients.online()
    account = server.named(f"later-{asker.user}", server.domain)
    for _ in range(3):
        asker.send(message(account.jid, "too early", type="chat"))
        assert (await asker.expect("message", type="error")).condition == "service-unavailable"
    server.create([account])
    asker.send(message(account.jid, "in time", type="chat"))
    later = await clients.online(account)
    assert (await later.expect("message", type="chat")).body == "in time"


# -- 10: other hosts and resources -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["starttls", "direct", "wss"])
async def test_a_stream_of_one_host_never_becomes_anothers(
    clients: Clients, server: Server, kind: str
) -> None:
    # CVE-2018-10847: the same localpart exists on both
    here = server.account()
    other = server.settings.domains[-1]
    client = await clients.stream(kind, account=here)
    await client.authenticate()
    client.open_header(to=other)
    try:
        await client.expect(lambda e: e.tag == ("features", ns.STREAM), timeout_s=1)
        await client.bind()
    except AssertionError:
        return
    assert client.bare == here.jid


async def test_a_resource_is_taken_only_by_its_own_account(clients: Clients) -> None:
    first = await clients.online(resource="x")
    second = await clients.online(resource="x")
    await first.sync()
    assert first.bare != second.bare
