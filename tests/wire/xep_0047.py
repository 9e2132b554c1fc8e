# SPDX-License-Identifier: Apache-2.0
"""XEP-0047 In-Band Bytestreams: blocks pass between full JIDs, in order and untouched."""

from __future__ import annotations

from base64 import b64encode

import pytest

from support import ns
from support.client import Client
from support.xml import E, iq, message

BLOCK = 4096


async def test_session_passes(romeo: Client, juliet: Client) -> None:
    # XEP-0047 examples 1 to 8
    opening = E("open", ns.IBB, **{"block-size": str(BLOCK)}, sid="i781hf64", stanza="iq")
    id_ = romeo.send(iq("set", opening, to=juliet.jid))
    asked = await juliet.expect("iq", type="set", from_=romeo.jid)
    assert asked.at(("open", ns.IBB)).get("block-size") == str(BLOCK)
    juliet.answer(asked)
    await romeo.expect("iq", id=id_, type="result")
    romeo.send(iq("set", E("close", ns.IBB, sid="i781hf64"), to=juliet.jid))
    juliet.answer(await juliet.expect("iq", type="set"))
    await romeo.expect("iq", type="result")


@pytest.mark.parametrize("stanza", ["iq", "message"])
async def test_blocks_arrive_in_order(romeo: Client, juliet: Client, stanza: str) -> None:
    # XEP-0047 #data: 200 blocks with sequence numbers
    text = b64encode(bytes(range(256)) * (BLOCK // 256)).decode()
    for seq in range(200):
        data = E("data", ns.IBB, text, seq=str(seq), sid="i781hf64")
        if stanza == "iq":
            romeo.send(iq("set", data, to=juliet.jid))
        else:
            romeo.send(message(juliet.jid, data))
    for seq in range(200):
        data = (await juliet.expect(stanza)).at(("data", ns.IBB))
        assert (data.get("seq"), data.text) == (str(seq), text)


async def test_largest_block_fits_the_stanza_limit(romeo: Client, juliet: Client) -> None:
    # requirements 10: 65535 bytes are 87380 characters of base64
    text = b64encode(bytes(65535)).decode()
    romeo.send(iq("set", E("data", ns.IBB, text, seq="0", sid="s"), to=juliet.jid))
    assert (await juliet.expect("iq")).at(("data", ns.IBB)).text == text
