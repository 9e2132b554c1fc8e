# SPDX-License-Identifier: Apache-2.0
"""XEP-0203 Delayed Delivery: the stamp on what waited."""

from __future__ import annotations

import re

from support import ns
from support.play import Clients
from support.xml import message

STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


async def test_stamp_has_the_form_of_xep_0082(clients: Clients) -> None:
    # XEP-0203 #protocol: UTC, dateTime of XEP-0082
    romeo = await clients.online()
    account = clients.server.account()
    romeo.send(message(account.jid, "x", type="chat"))
    await romeo.sync()
    juliet = await clients.online(account)
    delay = (await juliet.expect("message")).at(("delay", ns.DELAY))
    assert STAMP.match(delay.get("stamp") or "")
    assert delay.get("from")


async def test_what_did_not_wait_has_no_stamp(clients: Clients) -> None:
    romeo = await clients.online()
    juliet = await clients.online()
    romeo.send(message(juliet.jid, "x", type="chat"))
    assert not (await juliet.expect("message")).has("delay", ns.DELAY)


async def test_message_that_waited_for_a_resumption_may_be_stamped_once(clients: Clients) -> None:
    # requirements 4.1: with the original stamp, if at all
    romeo = await clients.online()
    juliet = await clients.bound()
    await juliet.sm_enable()
    await juliet.online()
    juliet.abort()
    await juliet.expect_eof()
    romeo.send(message(juliet.jid, "x", type="chat"))
    await romeo.sync()
    again = await clients.authenticated(juliet.account)
    assert (await again.sm_resume(juliet)).name == "resumed"
    got = await again.expect("message")
    assert len(got.all("delay", ns.DELAY)) <= 1
