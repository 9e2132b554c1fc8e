# SPDX-License-Identifier: Apache-2.0
"""XEP-0059 Result Set Management, where a node without archives has lists to page."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.xml import E, Element

pytestmark = pytest.mark.ours("paging of disco#items is optional")


async def page(client: Client, *rsm: Element) -> Element:
    """disco#items of the server with `<set/>`."""
    payload = E("query", ns.DISCO_ITEMS, E("set", ns.RSM, *rsm))
    return await client.iq("get", to=client.host, payload=payload)


async def test_request_with_a_page_size_is_answered(romeo: Client) -> None:
    # XEP-0059 #limit; a responder may leave <set/> out when it sends all (#support)
    reply = await page(romeo, E("max", None, "10"))
    assert reply.type == "result"
    found = reply.at(("query", ns.DISCO_ITEMS)).child("set", ns.RSM)
    if found is not None:
        assert int(found.at("count").text) >= len(reply.at(("query", ns.DISCO_ITEMS)).all("item"))


@pytest.mark.parametrize("text", ["-1", "abc", ""])
async def test_malformed_page_size_does_no_harm(romeo: Client, text: str) -> None:
    reply = await page(romeo, E("max", None, text))
    assert reply.type == "result" or reply.condition == "bad-request"
