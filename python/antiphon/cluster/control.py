# SPDX-License-Identifier: Apache-2.0
"""The port of control calls: `proto/antiphon/v1/control.proto` over mutual TLS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, cast

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import Message

from antiphon._core import certificate_names
from antiphon.cluster import packing
from antiphon.cluster._gen import control_pb2 as pb
from antiphon.cluster.api import ControlError, Material, Served
from antiphon.cluster.calls import GATHERED, Ways
from antiphon.cluster.remote import CONDITION, NOT_HOME, OPTIONS, SERVICE
from antiphon.cluster.status import read
from antiphon.cluster.tls import bears
from antiphon.cluster.tls import read as read_tls
from antiphon.commands.sessions import SessionLine
from antiphon.config.clustered import ClusterTls
from antiphon.config.core import control_address
from antiphon.config.schema import Config
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid, JidError

log = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Answering = Callable[[Q], Awaitable[R]]

LONGEST_S = 60.0
"""A call may take so long, whatever its own deadline is."""
MOST_AT_ONCE = 512
MOST_NAMES = 1_000
_MEMBERS_S = 5.0
_SAY_AGAIN_S = 60.0

_CHANGING = (
    pb.KickRequest,
    pb.DrainRequest,
    pb.StayRequest,
    pb.RebalanceRequest,
    pb.ReloadRequest,
    pb.SetLogLevelRequest,
)
"""Calls of operators that change something: the log says who made them. Commands are counted as at
the admin socket, and may be thousands."""
_LIMITS: tuple[tuple[str, str | int], ...] = (
    # Two nodes must not share a port without knowing.
    ("grpc.so_reuseport", 0),
    ("grpc.max_allowed_incoming_connections", 1_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
)
_CODES = {
    "bad-request": grpc.StatusCode.INVALID_ARGUMENT,
    "jid-malformed": grpc.StatusCode.INVALID_ARGUMENT,
    "item-not-found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "not-allowed": grpc.StatusCode.PERMISSION_DENIED,
    "feature-not-implemented": grpc.StatusCode.UNIMPLEMENTED,
    "resource-constraint": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


async def opened(config: Config, served: Served) -> ControlPort:
    """The open port of a node. Raises ControlError."""
    port = ControlPort(served, config.cluster.tls, control_address(config))
    await port.open()
    return port


class ControlPort:
    """Listens until it is closed; see `api.Control`."""

    def __init__(self, served: Served, tls: ClusterTls, address: str) -> None:
        self._served = served
        self._tls = tls
        self._address = address
        self._material = read_tls(tls)
        self._shown = self._material
        self._configuration = _configuration(self._material)
        self._server: grpc.aio.Server | None = None
        self._guests = Guests(served)
        self._keeping: asyncio.Task[None] | None = None
        self.elsewhere = Ways(served, self._material)

    async def open(self) -> None:
        """Raises ControlError if the address cannot be had."""
        options = (*OPTIONS, *_LIMITS)
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_AT_ONCE)
        server.add_generic_rpc_handlers((self._handlers(),))
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration, self._certificates, require_client_authentication=True
        )
        try:
            server.add_secure_port(self._address, credentials)
        except RuntimeError as error:
            raise ControlError(
                f"cannot listen on {self._address} for control calls: another program has this "
                "port, or this machine has no such address; see cluster.control_port"
            ) from error
        await server.start()
        self._server = server
        self._keeping = asyncio.get_running_loop().create_task(self._guests.keep())

    def renew(self) -> None:
        """See Control."""
        self._material = read_tls(self._tls)
        self.elsewhere.renew(self._material)

    async def close(self, grace_s: float) -> None:
        """See Control."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(grace_s)
        await self.elsewhere.close()

    def _certificates(self) -> grpc.ServerCertificateConfiguration:
        """Asked by gRPC before each handshake, on a thread of its own."""
        if self._shown is not self._material:
            self._shown = self._material
            self._configuration = _configuration(self._material)
        return self._configuration

    def _handlers(self) -> grpc.GenericRpcHandler:
        made = {
            "Health": self._handler(pb.HealthRequest, self._health),
            "Status": self._handler(pb.StatusRequest, self._status),
            "Sessions": self._handler(pb.SessionsRequest, self._sessions),
            "Kick": self._handler(pb.KickRequest, self._kick),
            "Drain": self._handler(pb.DrainRequest, self._drain),
            "Stay": self._handler(pb.StayRequest, self._stay),
            "Rebalance": self._handler(pb.RebalanceRequest, self._rebalance),
            "Reload": self._handler(pb.ReloadRequest, self._reload),
            "SetLogLevel": self._handler(pb.SetLogLevelRequest, self._set_log_level),
            "Run": self._handler(pb.RunRequest, self._run),
            "Call": self._handler(pb.CallRequest, self._call),
        }
        handlers = cast("dict[str, grpc.RpcMethodHandler[Message, Message]]", made)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _handler(self, request: type[Q], answering: Answering[Q, R]) -> grpc.RpcMethodHandler[Q, R]:
        return grpc.unary_unary_rpc_method_handler(
            partial(self._answer, answering),
            request_deserializer=request.FromString,
            response_serializer=_bytes,
        )

    async def _answer(
        self, answering: Answering[Q, R], request: Q, context: grpc.aio.ServicerContext[Q, R]
    ) -> R:
        fault = self._guests.fault(context.auth_context(), context.peer())
        if fault is not None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, fault)
        if isinstance(request, _CHANGING):
            who = ", ".join(_names(context.auth_context()))
            log.info("control call", extra={"call": _name(request), "by": who})
        try:
            async with asyncio.timeout(min(context.time_remaining() or LONGEST_S, LONGEST_S)):
                return await answering(request)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "it takes too long")
        except _Refused as error:
            metadata = ((CONDITION, error.condition),) if error.condition else ()
            await context.abort(error.code, error.text, metadata)
        except StanzaError as error:
            code = _CODES.get(error.condition, grpc.StatusCode.UNKNOWN)
            text = error.text or error.condition
            await context.abort(code, text, ((CONDITION, error.condition),))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            log.exception("control call failed", extra={"call": _name(request)})
            text = "it failed; the node's log says why"
            await context.abort(grpc.StatusCode.INTERNAL, text)
        raise AssertionError("an aborted call goes no further")

    async def _health(self, _request: pb.HealthRequest) -> pb.HealthReply:
        found = self._served.health()
        return pb.HealthReply(**msgspec.structs.asdict(found))

    async def _status(self, _request: pb.StatusRequest) -> pb.StatusReply:
        return pb.StatusReply(node=self._served.name, document=self._served.status())

    async def _sessions(self, request: pb.SessionsRequest) -> pb.SessionsReply:
        jid = _jid(request.jid)
        found = await self._served.run("user_sessions", {"jid": str(jid.bare)})
        sessions = [
            pb.SessionsReply.Session(
                jid=one.jid, priority=one.priority, show=one.show or "", has_carbons=one.has_carbons
            )
            for one in msgspec.convert(found, list[SessionLine])
        ]
        return pb.SessionsReply(sessions=sessions, home=self._served.home(jid.bare) or "")

    async def _kick(self, request: pb.KickRequest) -> pb.KickReply:
        ended = await self._served.run("end_session", {"jid": str(_jid(request.jid))})
        return pb.KickReply(ended=msgspec.convert(ended, int))

    async def _drain(self, _request: pb.DrainRequest) -> pb.DrainReply:
        return pb.DrainReply(was_draining=self._served.drain())

    async def _rebalance(self, _request: pb.RebalanceRequest) -> pb.RebalanceReply:
        found = self._served.rebalance()
        if found is None:
            raise _Refused("this node does not plan", code=grpc.StatusCode.FAILED_PRECONDITION)
        return pb.RebalanceReply(**msgspec.structs.asdict(found))

    async def _stay(self, _request: pb.StayRequest) -> pb.StayReply:
        was_draining = self._served.stay()
        if was_draining is None:
            raise _Refused("this node ends", code=grpc.StatusCode.FAILED_PRECONDITION)
        return pb.StayReply(was_draining=was_draining)

    async def _reload(self, _request: pb.ReloadRequest) -> pb.ReloadReply:
        problems = await self._served.reload()
        return pb.ReloadReply(is_taken=not problems, problems=problems)

    async def _set_log_level(self, request: pb.SetLogLevelRequest) -> pb.SetLogLevelReply:
        try:
            return pb.SetLogLevelReply(was=await self._served.set_log_level(request.level))
        except ValueError as error:
            raise _Refused(str(error)) from error

    async def _run(self, request: pb.RunRequest) -> pb.RunReply:
        try:
            arguments = msgspec.json.decode(request.arguments or "{}", type=dict[str, object])
        except msgspec.MsgspecError as error:
            raise _Refused(f"the arguments do not read: {error}") from error
        found = await self._served.run(request.command, arguments)
        return pb.RunReply(result=msgspec.json.encode(found).decode())

    async def _call(self, request: pb.CallRequest) -> pb.CallReply:
        try:
            arguments = packing.unpack_arguments(request.arguments)
        except ValueError as error:
            raise _Refused(str(error)) from error
        owner = arguments[0] if arguments else None
        if request.operation in GATHERED:
            pass  # of every node, each answers for itself
        elif not isinstance(owner, Jid):
            raise _Refused("the first argument is the entity")
        elif self._served.home(owner) != self._served.name:
            raise _Refused("the entity does not live here", NOT_HOME, grpc.StatusCode.ABORTED)
        try:
            value = await self._served.call_here(request.operation, *arguments)
        except ValueError as error:
            raise _Refused(str(error)) from error
        return pb.CallReply(value=packing.pack(value))


class Guests:
    """Who may ask: whoever's certificate bears the name of a member, of now or since the start.

    A node that was thrown out is let in too: at its machine an operator asks what happened.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._names: dict[str, None] = {served.name: None}
        self._said: dict[str, float] = {}

    async def keep(self) -> None:
        """Notes who is a member, until it is cancelled."""
        while True:
            self._look()
            await asyncio.sleep(_MEMBERS_S)

    def fault(self, found: object, peer: str) -> str | None:
        """Why the peer with this authentication context gets no answer; None if it does."""
        names = _names(found)
        if self._is_known(names):
            return None
        self._look()
        if self._is_known(names):
            return None
        shown = ", ".join(names) or "nobody"
        now = asyncio.get_running_loop().time()
        if now >= self._said.get(shown, 0.0):
            if len(self._said) >= MOST_NAMES:
                self._said.clear()
            self._said[shown] = now + _SAY_AGAIN_S
            log.warning("control call refused", extra={"certificate": shown, "address": peer})
        return f"the certificate names {shown}, and no node of this cluster is called so"

    def _is_known(self, names: list[str]) -> bool:
        return any(bears(names, name) for name in self._names)

    def _look(self) -> None:
        try:
            status = read(self._served.status())
        except ValueError:
            log.warning("cluster status unreadable")
            return
        for member in status.members if status is not None else ():
            self._names.pop(member.id, None)
            self._names[member.id] = None
        while len(self._names) > MOST_NAMES:
            self._names.pop(next(iter(self._names)))


class _Refused(Exception):
    """A request that cannot be; with the condition that the asking node looks for."""

    def __init__(
        self,
        text: str,
        condition: str = "",
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.condition = condition
        self.code = code


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    pairs = [(material.key, material.certificate)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=material.ca)


def _names(context: object) -> list[str]:
    """DNS names of the certificate that the peer has shown."""
    shown: Sequence[bytes] = ()
    if isinstance(context, dict):
        shown = context.get("x509_pem_cert", ())
    try:
        return certificate_names(bytes(shown[0]).decode())[0] if shown else []
    except ValueError:
        return []


def _name(request: Message) -> str:
    return type(request).__name__.removesuffix("Request")


def _jid(text: str) -> Jid:
    try:
        return Jid(text)
    except (JidError, ValueError) as error:
        raise StanzaError("jid-malformed", f'"{text}" is not an address: {error}') from error


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
