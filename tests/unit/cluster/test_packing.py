# SPDX-License-Identifier: Apache-2.0
"""Values on their way between nodes."""

import contextlib
import random

import pytest

from antiphon._core import Element, Jid, Stanza
from antiphon.cluster import packing

VALUES: list[object] = [
    None, True, -1, 1 << 62, 0.5, "ü", b"\xff", [], (), {}, [1, (2, [3, ()])], ((), ("a", None)),
    Jid("juliet@chat.example/balcony"), {"a": [Jid("b@c")]}, Element("x", "urn:x", {"a": "<"}, ["t"]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_arrives_as_it_was_sent(value: object) -> None:
    found = packing.unpack(packing.pack(value))
    assert found == value
    assert type(found) is type(value)


def test_a_stanza_arrives_with_its_addresses_and_children() -> None:
    sent = Stanza(
        "message", type="chat", id="1", frm=Jid("a@b/c"), to=Jid("d@e"),
        children=[Element("body", "jabber:client", {}, ["hé"])],
    )  # fmt: skip
    found = packing.unpack(packing.pack([sent]))
    assert isinstance(found, list)
    assert found[0].element == sent.element
    assert isinstance(found[0], Stanza)
    bad = packing.pack(Element("message", "jabber:client")).replace(b"message", b"massage")
    with pytest.raises(ValueError, match="is no stanza"):
        packing.unpack(bad[:-1].replace(b"\x03<", b"\x04<", 1) + bad[-1:])


def test_what_no_operation_takes_is_refused() -> None:
    with pytest.raises(TypeError, match="set cannot go to another node"):
        packing.pack({1})
    with pytest.raises(ValueError, match="too many"):
        packing.pack("x" * (packing.MOST_BYTES + 1))
    deep: object = None
    for _ in range(50):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        packing.pack(deep)


@pytest.mark.parametrize("seed", range(40))
def test_garbage_is_a_value_error_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    packed = bytearray(packing.pack(tuple(VALUES)))
    for _ in range(50):
        torn = bytearray(packed)
        for _ in range(chance.randrange(1, 4)):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        with contextlib.suppress(ValueError):
            packing.unpack_arguments(bytes(torn[: chance.randrange(len(torn))]))
