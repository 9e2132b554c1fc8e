# SPDX-License-Identifier: Apache-2.0
"""How nodes see the cluster, as far as the tests look at it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import grpc

from antiphon.cluster._gen import control_pb2 as pb

from .node import CONTROL, Node

# gRPC's own lines about peers that do not answer yet; read when it is first used.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
SHARDS = 4_096
ASK_S = 3.0
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class NoStatus(AssertionError):
    """No node said anything that can be read."""


@dataclass(frozen=True)
class Status:
    """How one node sees the cluster."""

    node: str
    stage: str
    epoch: int
    leader: str
    is_frozen: bool
    members: dict[str, str]
    """States by name."""
    incarnations: dict[str, int]
    served: int
    """Shards that this node serves."""
    coming: int
    going: int
    by_node: dict[str, int]
    sessions: int
    pending: int
    """Stanzas that it sent to peers and that are not done there."""
    raw: dict[str, object] = field(repr=False, default_factory=dict)

    @property
    def is_at_rest(self) -> bool:
        """Nothing moves, here at least."""
        return self.coming == 0 and self.going == 0


def _status(found: dict[str, object]) -> Status:
    members = cast("list[dict[str, object]]", found["members"])
    shards = cast("dict[str, object]", found["shards"])
    peers = cast("list[dict[str, object]]", found["peers"])
    return Status(
        node=str(found["node"]),
        stage=str(found["stage"]),
        epoch=_whole(found["epoch"]),
        leader=str(found.get("leader") or ""),
        is_frozen=bool(found.get("is_frozen")),
        members={str(one["id"]): str(one["state"]).lower() for one in members},
        incarnations={str(one["id"]): _whole(one["incarnation"]) for one in members},
        served=_whole(shards["served"]),
        coming=_whole(shards["coming"]),
        going=_whole(shards.get("going", 0)),
        by_node={k: _whole(v) for k, v in cast("dict[str, object]", shards["by_node"]).items()},
        sessions=_whole(found.get("sessions", 0)),
        pending=sum(_whole(peer["pending"]) for peer in peers if peer["class"] == "stanza"),
        raw=found,
    )


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value


def read(text: str) -> Status:
    """What one node says, as JSON. Raises `NoStatus`."""
    try:
        return _status(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoStatus(f"{error!r} in {text[:400]!r}") from error


def _ask(node: Node) -> Status:
    """How one node sees the cluster, by its control port. Raises `NoStatus`."""
    tls = node.wiring.ca, node.identity.key, node.identity.certificate
    credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in tls))
    options = [*OPTIONS, ("grpc.ssl_target_name_override", node.name)]
    with grpc.secure_channel(f"{node.place.address}:{CONTROL}", credentials, options) as channel:
        call = channel.unary_unary(
            "/antiphon.v1.Control/Status",
            request_serializer=pb.StatusRequest.SerializeToString,
            response_deserializer=pb.StatusReply.FromString,
        )
        try:
            return read(call(pb.StatusRequest(), timeout=ASK_S).document)
        except grpc.RpcError as error:
            raise NoStatus(f"{node.name}: {error.details()}") from error


def of(nodes: Iterable[Node]) -> dict[str, Status]:
    """How each of these sees the cluster; those that do not answer are left out.

    Raises `NoStatus` where nobody does. Over gRPC itself: the command line is tested elsewhere, and
    each of its starts costs half a second of a processor.
    """
    found: dict[str, Status] = {}
    fault = "nobody was asked"
    for node in nodes:
        try:
            found[node.name] = _ask(node)
        except NoStatus as error:
            fault = str(error)
    if not found:
        raise NoStatus(fault)
    return found
