# SPDX-License-Identifier: Apache-2.0
"""XEP-0333 Chat Markers: passes through the server untouched."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import without_place
from support.client import Client
from support.xml import E, Element, message

PAYLOADS = {
    "markable": [E("body", None, "My lord"), E("markable", ns.MARKERS)],
    "displayed": [E("displayed", ns.MARKERS, id="message-1")],
    # of texts up to 0.4, still on the wire (requirements 7)
    "received": [E("received", ns.MARKERS, id="message-1")],
    "acknowledged": [E("acknowledged", ns.MARKERS, id="message-1"), E("thread", None, "t")],
}


@pytest.mark.parametrize("children", PAYLOADS.values(), ids=PAYLOADS.keys())
async def test_marker_passes(romeo: Client, juliet: Client, children: list[Element]) -> None:
    sent = message(juliet.jid, *children, type="chat", id="m1")
    romeo.send(sent)
    got = await juliet.expect("message")
    del got.attrs["from"]
    got.attrs.pop("xml:lang", None)
    assert without_place(got).canonical() == sent.canonical()
