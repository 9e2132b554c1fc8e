# SPDX-License-Identifier: Apache-2.0
"""XEP-0012 Last Activity: uptime of the server, absence of an account, idleness of a client."""

from __future__ import annotations

import asyncio

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element, presence


async def last(client: Client, to: str | None) -> Element:
    """The answer to a jabber:iq:last request."""
    return await client.iq("get", to=to, payload=E("query", ns.LAST))


def seconds(reply: Element) -> int:
    """The number of a result."""
    assert reply.type == "result", f"refused: {reply}"
    return int(reply.at(("query", ns.LAST)).get("seconds") or -1)


async def test_server_tells_its_uptime(romeo: Client) -> None:
    # XEP-0012 #server, examples 6 and 7
    reply = await last(romeo, romeo.host)
    assert 0 <= seconds(reply) < 3600


async def test_contact_learns_since_when_an_account_is_offline(
    couple: tuple[Client, Client],
) -> None:
    # XEP-0012 #offline, examples 1 and 2
    romeo, juliet = couple
    juliet.send(presence(E("status", None, "Heading Home"), type="unavailable"))
    await romeo.expect("presence", type="unavailable")
    await juliet.close()
    await asyncio.sleep(1.1)
    reply = await last(romeo, juliet.bare)
    assert 1 <= seconds(reply) < 60
    assert reply.at(("query", ns.LAST)).text == "Heading Home"


async def test_available_account_is_zero_seconds_away(couple: tuple[Client, Client]) -> None:
    # XEP-0012 #offline: at least one available resource
    romeo, juliet = couple
    assert seconds(await last(romeo, juliet.bare)) == 0


async def test_stranger_is_refused(romeo: Client, juliet: Client) -> None:
    # XEP-0012 #offline: forbidden without a subscription; the same for no account
    answers = [await last(romeo, jid) for jid in (juliet.bare, f"nobody-at-all@{romeo.host}")]
    assert all(a.type == "error" for a in answers)
    assert answers[0].condition in ("forbidden", "service-unavailable")


@pytest.mark.deviates(prosody="tells apart an account that does not exist")
async def test_stranger_cannot_tell_whether_an_account_exists(
    romeo: Client, juliet: Client
) -> None:
    answers = [await last(romeo, jid) for jid in (juliet.bare, f"nobody-at-all@{romeo.host}")]
    assert answers[0].condition == answers[1].condition


async def test_client_is_asked_at_its_full_jid(couple: tuple[Client, Client]) -> None:
    # XEP-0012 #client, examples 4 and 5
    romeo, juliet = couple
    romeo.send(E("iq", ns.CLIENT, E("query", ns.LAST), type="get", to=juliet.jid, id="l1"))
    asked = await juliet.expect("iq", id="l1")
    juliet.answer(asked, E("query", ns.LAST, seconds="123"))
    assert seconds(await romeo.expect("iq", id="l1")) == 123


async def test_last_activity_survives_the_next_login(
    clients: Clients, couple: tuple[Client, Client]
) -> None:
    romeo, juliet = couple
    await juliet.close()
    await romeo.expect("presence", type="unavailable")
    quiet = await clients.bound(juliet)
    await quiet.close()
    assert seconds(await last(romeo, juliet.bare)) < 60


async def test_support_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    assert ns.LAST in {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
