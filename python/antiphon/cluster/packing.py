# SPDX-License-Identifier: Apache-2.0
"""Arguments and values of the core's operations as bytes, for calls between nodes.

MessagePack, with the kinds that it has not as extensions: 1 a tuple, 2 an address, 3 an element,
4 a stanza (without its language).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.msgpack import Ext

from antiphon._core import Element, Jid, Stanza

MOST_BYTES = 8 * 1024 * 1024
"""Of one call or its value."""
_DEEPEST = 16

_TUPLE, _JID, _ELEMENT, _STANZA = 1, 2, 3, 4


def pack(value: object) -> bytes:
    """The bytes of a value: None, numbers, texts, bytes, addresses, elements, stanzas, and lists,
    tuples and tables of them. Raises TypeError for another, ValueError for what is too large."""
    packed = msgspec.msgpack.encode(_plain(value, 0))
    if len(packed) > MOST_BYTES:
        raise ValueError(f"{len(packed)} bytes are too many for a call between nodes")
    return packed


def unpack(packed: bytes) -> object:
    """The value. Raises ValueError for bytes that `pack` did not make."""
    if len(packed) > MOST_BYTES:
        raise ValueError("too large")
    try:
        return msgspec.msgpack.decode(packed, ext_hook=_extension)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a packed value: {error}") from error


def unpack_arguments(packed: bytes) -> Sequence[object]:
    """The arguments of a call. Raises ValueError."""
    found = unpack(packed)
    if not isinstance(found, tuple):
        raise ValueError("arguments are a tuple")
    return found


def _plain(value: object, depth: int) -> object:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Jid):
        return Ext(_JID, str(value).encode())
    if isinstance(value, Element):
        return Ext(_ELEMENT, value.to_bytes())
    if isinstance(value, Stanza):
        return Ext(_STANZA, value.element.to_bytes())
    if isinstance(value, tuple):
        return Ext(_TUPLE, msgspec.msgpack.encode([_plain(one, depth + 1) for one in value]))
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one, depth + 1) for key, one in value.items()}
    raise TypeError(f"{type(value).__name__} cannot go to another node")


def _extension(code: int, content: memoryview) -> object:
    if code == _JID:
        return Jid(str(content, "utf-8"))
    if code == _ELEMENT:
        return Element.parse(bytes(content))
    if code == _STANZA:
        return _stanza(Element.parse(bytes(content)))
    if code == _TUPLE:
        found = msgspec.msgpack.decode(content, ext_hook=_extension)
        if isinstance(found, list):
            return tuple(found)
    raise ValueError(f"unknown extension {code}")


def _stanza(found: Element) -> Stanza:
    kinds: dict[str, Literal["message", "presence", "iq"]] = {
        "message": "message", "presence": "presence", "iq": "iq",
    }  # fmt: skip
    kind = kinds.get(found.name)
    if kind is None:
        raise ValueError(f"<{found.name}/> is no stanza")
    frm, to = found.get("from"), found.get("to")
    return Stanza(
        kind,
        type=found.get("type"),
        id=found.get("id"),
        frm=None if frm is None else Jid(frm),
        to=None if to is None else Jid(to),
        children=found.children,
    )
