# SPDX-License-Identifier: Apache-2.0
"""The published map as it stands in etcd: whose each shard is, and who stands in for him.

Reads the format that rust/cluster/src/codec.rs describes.
"""

from __future__ import annotations

from typing import NamedTuple

from .etcd import Etcd
from .status import SHARDS

HEAD = b"APMP\x01"


class Placed(NamedTuple):
    """One shard; names and zones of nodes."""

    owner: str
    owner_zone: str
    shadow: str
    """Empty: nobody."""
    shadow_zone: str


class _Reader:
    def __init__(self, octets: bytes) -> None:
        self._octets, self._at = octets, 0

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._octets[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self) -> str:
        end = self.number() + self._at
        found, self._at = self._octets[self._at : end], end
        return found.decode()

    def column(self, count: int) -> list[int]:
        values: list[int] = []
        while len(values) < count:
            run, value = self.number(), self.number()
            values += [value] * run
        assert len(values) == count, "a column of another length"
        return values


def placement(etcd: Etcd) -> list[Placed]:
    """All shards of the newest map, in order."""
    (octets,) = (value for key, value in etcd.keys().items() if value.startswith(HEAD[:4]))
    assert octets.startswith(HEAD), f"a map of another format: {octets[:5]!r}"
    reader = _Reader(octets[len(HEAD) : -8])
    _epoch, _planner = reader.number(), reader.number()
    nodes = []
    for _ in range(reader.number()):
        _life, _flags = reader.number(), reader.number()
        nodes.append((reader.text(), reader.text()))
    shards = reader.number()
    assert shards == SHARDS
    owners, shadows = reader.column(shards), reader.column(shards)
    nobody = ("", "")
    return [
        Placed(*nodes[owner], *(nodes[shadow - 1] if shadow else nobody))
        for owner, shadow in zip(owners, shadows, strict=True)
    ]
