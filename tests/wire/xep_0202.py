# SPDX-License-Identifier: Apache-2.0
"""XEP-0202 Entity Time."""

from __future__ import annotations

import datetime
import re

from support import ns
from support.client import Client
from support.xml import E


async def test_server_tells_utc_and_offset(romeo: Client) -> None:
    # XEP-0202 #protocol, example 2
    reply = await romeo.iq("get", to=romeo.host, payload=E("time", ns.TIME))
    assert reply.type == "result"
    time = reply.at(("time", ns.TIME))
    assert re.fullmatch(r"Z|[+-]\d\d:\d\d", time.at("tzo").text)
    utc = time.at("utc").text
    assert utc.endswith("Z")
    told = datetime.datetime.fromisoformat(utc)
    assert abs((told - datetime.datetime.now(datetime.UTC)).total_seconds()) < 30


async def test_support_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    assert ns.TIME in {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}


async def test_client_is_asked_at_its_full_jid(romeo: Client, juliet: Client) -> None:
    # XEP-0202, example 1
    romeo.send(E("iq", ns.CLIENT, E("time", ns.TIME), type="get", to=juliet.jid, id="t1"))
    asked = await juliet.expect("iq", id="t1")
    told = E("time", ns.TIME, E("tzo", None, "-06:00"), E("utc", None, "2006-12-19T17:58:35Z"))
    juliet.answer(asked, told)
    reply = await romeo.expect("iq", id="t1")
    assert reply.at(("time", ns.TIME), "tzo").text == "-06:00"


async def test_time_cannot_be_set(romeo: Client) -> None:
    reply = await romeo.iq("set", to=romeo.host, payload=E("time", ns.TIME))
    assert reply.type == "error"
