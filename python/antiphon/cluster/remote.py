# SPDX-License-Identifier: Apache-2.0
"""Control calls to one node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, TypeVar

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import Message

from antiphon.cluster import packing
from antiphon.cluster._gen import control_pb2 as pb
from antiphon.cluster.api import ControlError, Health, Material, Outlook
from antiphon.cluster.status import ClusterStatus, read
from antiphon.commands.sessions import SessionLine
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid

SERVICE = "antiphon.v1.Control"
CONDITION = "antiphon-condition"
"""Trailing metadata with the condition of a stanza error."""
NOT_HOME = "not-home"
"""Its value where an entity does not live at the node that was asked."""

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # So that new certificates are shown from the next channel on.
    ("grpc.use_local_subchannel_pool", 1),
)

_LAST = re.compile(r"(?:.*: )?([^:()]+?)(?: \(\d+\))?$")
R = TypeVar("R", bound=Message)
R_co = TypeVar("R_co", bound=Message, covariant=True)


class NotHome(Exception):
    """The entity does not live there (any more); nothing was done."""


class _Reply(Protocol[R_co]):
    @staticmethod
    def FromString(s: bytes) -> R_co: ...  # noqa: N802  protobuf's name


class Remote:
    """One node's control port; connects when it is first asked."""

    def __init__(self, node: str, address: str, material: Material) -> None:
        """The node at `address` must prove to be `node`."""
        self.node = node
        self.address = address
        credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
        named = (*OPTIONS, ("grpc.ssl_target_name_override", node))
        self._channel = grpc.aio.secure_channel(address, credentials, options=named)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def health(self, timeout_s: float) -> Health:
        """Whether it takes clients. This and all others raise ControlError."""
        found = await self._call("Health", pb.HealthRequest(), pb.HealthReply, timeout_s)
        return Health(
            node=found.node,
            incarnation=found.incarnation,
            version=found.version,
            state=found.state,
            is_ready=found.is_ready,
        )

    async def status(self, timeout_s: float) -> tuple[ClusterStatus, object]:
        """What it knows of the cluster, read and as JSON's types."""
        found = await self._call("Status", pb.StatusRequest(), pb.StatusReply, timeout_s)
        try:
            status, document = read(found.document), msgspec.json.decode(found.document)
        except ValueError as error:
            raise ControlError(f"node {self.node} answers garbage: {error}") from error
        if status is None:
            raise ControlError(f"node {self.node} is in no cluster")
        return status, document

    async def sessions(self, jid: Jid, timeout_s: float) -> tuple[str, list[SessionLine]]:
        """(the user's home, sessions of a user). Raises StanzaError too."""
        request = pb.SessionsRequest(jid=str(jid.bare))
        found = await self._call("Sessions", request, pb.SessionsReply, timeout_s)
        return found.home, [
            SessionLine(
                jid=one.jid,
                priority=one.priority if one.HasField("priority") else None,
                show=one.show or None,
                has_carbons=one.has_carbons,
            )
            for one in found.sessions
        ]

    async def kick(self, jid: Jid, timeout_s: float) -> int:
        """Ends a user's sessions, or one; how many. Raises StanzaError too."""
        found = await self._call("Kick", pb.KickRequest(jid=str(jid)), pb.KickReply, timeout_s)
        return found.ended

    async def drain(self, timeout_s: float) -> bool:
        """Has it give everything away; whether that had begun before."""
        found = await self._call("Drain", pb.DrainRequest(), pb.DrainReply, timeout_s)
        return found.was_draining

    async def stay(self, timeout_s: float) -> bool:
        """Has it take a drain back; whether there was one."""
        found = await self._call("Stay", pb.StayRequest(), pb.StayReply, timeout_s)
        return found.was_draining

    async def rebalance(self, timeout_s: float) -> Outlook:
        """Has its planner plan anew; what there is to move."""
        found = await self._call("Rebalance", pb.RebalanceRequest(), pb.RebalanceReply, timeout_s)
        return Outlook(found.moving, found.least, found.most, found.is_waiting)

    async def reload(self, timeout_s: float) -> tuple[str, ...]:
        """Has it read its configuration again; why it refuses that, nothing where it does not."""
        found = await self._call("Reload", pb.ReloadRequest(), pb.ReloadReply, timeout_s)
        return () if found.is_taken else tuple(found.problems)

    async def set_log_level(self, level: str, timeout_s: float) -> str:
        """The least level that it logs; the one before."""
        request = pb.SetLogLevelRequest(level=level)
        found = await self._call("SetLogLevel", request, pb.SetLogLevelReply, timeout_s)
        return found.was

    async def run(self, command: str, arguments: Mapping[str, object], timeout_s: float) -> object:
        """An administrative command; its result in JSON's types. Raises StanzaError too."""
        text = msgspec.json.encode(arguments).decode()
        request = pb.RunRequest(command=command, arguments=text)
        found = await self._call("Run", request, pb.RunReply, timeout_s)
        return msgspec.json.decode(found.result)

    async def call(self, operation: str, arguments: tuple[object, ...], timeout_s: float) -> object:
        """An operation of its core. Raises StanzaError too, and NotHome."""
        request = pb.CallRequest(operation=operation, arguments=packing.pack(arguments))
        found = await self._call("Call", request, pb.CallReply, timeout_s)
        return packing.unpack(found.value)

    async def _call(
        self, name: str, request: Message, reply: type[_Reply[R]], timeout_s: float
    ) -> R:
        method = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            found: R = await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error, timeout_s) from error
        return found

    def _failure(self, error: grpc.aio.AioRpcError, timeout_s: float) -> Exception:
        text = " ".join((error.details() or "").split())
        condition = _condition(error)
        if condition == NOT_HOME:
            return NotHome(text)
        if condition is not None:
            return StanzaError.named(condition, text, None)
        where = f"node {self.node} at {self.address}"
        code = error.code()
        if code == grpc.StatusCode.UNAVAILABLE:
            # What broke off in the middle may have been done.
            is_unreached = "failed to connect" in text or "resolution failed" in text
            return ControlError(f"{where} {_unreached(text, self.node)}", is_unreached=is_unreached)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ControlError(f"{where} does not answer within {timeout_s:g} s")
        return ControlError(f"{where} refuses: {text or code.name.lower()}")


def _condition(error: grpc.aio.AioRpcError) -> str | None:
    for key, value in error.trailing_metadata() or ():
        if key == CONDITION and isinstance(value, str):
            return value
    return None


def _unreached(text: str, node: str) -> str:
    """What gRPC says of a connection that failed, for people."""
    if "Hostname Verification" in text or "verify hostname" in text.lower():
        return f"is another one: its certificate does not name {node}"
    if "CERTIFICATE_VERIFY_FAILED" in text or "BAD_SIGNATURE" in text:
        return "is not believed: its certificate is not of cluster.tls.ca, or has ended"
    # Under TLS 1.3 a server hears of the client's certificate when the client believes it is in.
    if "andshake" in text or "tlsv1 alert" in text.lower() or "Socket closed" in text:
        return "closes the connection: it refuses the certificate that was shown, see cluster.tls"
    if "Connection refused" in text:
        return "does not answer: connection refused"
    last = _LAST.match(text)
    return f"does not answer: {last[1].strip() if last else text or 'no connection'}"
