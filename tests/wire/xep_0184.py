# SPDX-License-Identifier: Apache-2.0
"""XEP-0184 Message Delivery Receipts: passes through the server untouched."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import without_place
from support.client import Client
from support.xml import E, Element, message

PAYLOADS = {
    "request": [E("body", None, "My lord"), E("request", ns.RECEIPTS)],  # example 3
    "received": [E("received", ns.RECEIPTS, id="richard2-4.1.247")],  # example 4
}


@pytest.mark.parametrize("children", PAYLOADS.values(), ids=PAYLOADS.keys())
@pytest.mark.parametrize("to", ["full", "bare"])
async def test_receipt_passes(
    romeo: Client, juliet: Client, children: list[Element], to: str
) -> None:
    # XEP-0184 #protocol
    address = juliet.jid if to == "full" else juliet.bare
    sent = message(address, *children, type="chat", id="richard2-4.1.247")
    romeo.send(sent)
    got = await juliet.expect("message")
    del got.attrs["from"]
    got.attrs.pop("xml:lang", None)
    assert without_place(got).canonical() == sent.canonical()


async def test_server_sends_no_receipt_for_a_client(romeo: Client, juliet: Client) -> None:
    # XEP-0184 #rules: only the recipient's client
    romeo.send(message(juliet.jid, E("body", None, "x"), E("request", ns.RECEIPTS), id="m1"))
    await juliet.expect("message")
    await romeo.expect_nothing("message", within_s=0.1)
