# SPDX-License-Identifier: Apache-2.0
"""etcd as the command line asks it: do its members answer, and who is registered?

Nodes have a client of their own (`rust/cluster/src/etcd`). The messages are ours with etcd's field
numbers (`proto/etcd`); only the paths of the services are on the wire.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import Message

from antiphon.cluster._gen import etcd_pb2 as pb
from antiphon.cluster.status import EtcdMember, Member
from antiphon.config.clustered import Etcd

CALL_S = 2.0
"""Each member is asked for so long."""

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
_LAST = re.compile(r"(?:.*: )?([^:()]+?)(?: \(\d+\))?$")
R = TypeVar("R", bound=Message)
R_co = TypeVar("R_co", bound=Message, covariant=True)


class EtcdFailure(Exception):
    """What is wrong and what to do, in one line."""


class _Reply(Protocol[R_co]):
    @staticmethod
    def FromString(s: bytes) -> R_co: ...  # noqa: N802  protobuf's name


class Client:
    """All members of one etcd. Use it in one loop, and close it."""

    def __init__(self, options: Etcd) -> None:
        """Raises EtcdFailure for certificates that cannot be read."""
        self._options = options
        credentials = _credentials(options)
        self._channels = {one: _channel(one, credentials) for one in options.endpoints}
        self._token: str | None = None

    async def close(self) -> None:
        """Ends every connection."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def members(self) -> list[EtcdMember]:
        """What each member of etcd says, in the order of the configuration."""
        return list(await asyncio.gather(*map(self._member, self._options.endpoints)))

    async def nodes(self) -> list[Member]:
        """The registered nodes, read from a majority of etcd; records that do not read are left
        out. Raises EtcdFailure."""
        prefix = f"{self._options.prefix.rstrip('/')}/nodes/".encode()
        request = pb.RangeRequest(key=prefix, range_end=_end(prefix))
        # All at once: one that hangs must not keep the answer of the others back.
        asked = {
            asyncio.create_task(self._call(one, "KV/Range", request, pb.RangeResponse)): one
            for one in self._options.endpoints
        }
        failures: dict[str, str] = {}
        try:
            waiting = set(asked)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        return list(_read(prefix, task.result().kvs))
                    except EtcdFailure as error:
                        failures[asked[task]] = str(error)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        said = (f"{one}: {failures[one]}" for one in self._options.endpoints)
        raise EtcdFailure("; ".join(said))

    async def _member(self, endpoint: str) -> EtcdMember:
        try:
            found = await self._call(
                endpoint, "Maintenance/Status", pb.StatusRequest(), pb.StatusResponse
            )
        except EtcdFailure as error:
            return EtcdMember(endpoint=endpoint, fault=str(error))
        if not found.version:
            return EtcdMember(endpoint=endpoint, fault="what answers there is no etcd")
        return EtcdMember(
            endpoint=endpoint,
            version=found.version,
            db_bytes=found.dbSize,
            revision=found.header.revision,
            is_leader=found.leader != 0 and found.leader == found.header.member_id,
            has_leader=found.leader != 0,
        )

    async def _call(self, endpoint: str, path: str, request: Message, reply: type[_Reply[R]]) -> R:
        if self._options.user is not None and self._token is None:
            login = pb.AuthenticateRequest(
                name=self._options.user, password=self._options.password or ""
            )
            token = await self._once(endpoint, "Auth/Authenticate", login, pb.AuthenticateResponse)
            self._token = token.token
        return await self._once(endpoint, path, request, reply)

    async def _once(self, endpoint: str, path: str, request: Message, reply: type[_Reply[R]]) -> R:
        method = self._channels[endpoint].unary_unary(
            f"/etcdserverpb.{path}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        metadata = (("token", self._token),) if self._token is not None else ()
        try:
            found: R = await method(request, timeout=CALL_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise EtcdFailure(_said(error)) from error
        return found


async def ask(options: Etcd) -> tuple[list[EtcdMember], list[Member], str | None]:
    """(what its members say, the registered nodes, why these could not be read)."""
    try:
        client = Client(options)
    except EtcdFailure as error:
        found = [EtcdMember(endpoint=one, fault=str(error)) for one in options.endpoints]
        return found, [], str(error)
    try:
        answers, nodes = await asyncio.gather(
            client.members(), client.nodes(), return_exceptions=True
        )
    finally:
        await client.close()
    if isinstance(answers, BaseException):
        raise answers
    if isinstance(nodes, EtcdFailure):
        return answers, [], str(nodes)
    if isinstance(nodes, BaseException):
        raise nodes
    return answers, nodes, None


def _channel(endpoint: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    scheme, mark, rest = endpoint.rpartition("://")
    address = rest.rstrip("/")
    if credentials is None or (mark and scheme == "http"):
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


def _credentials(options: Etcd) -> grpc.ChannelCredentials | None:
    if options.ca is None:
        return None
    files = {"ca": options.ca, "key": options.key, "certificate": options.certificate}
    found: dict[str, bytes | None] = {}
    for name, file in files.items():
        try:
            found[name] = None if file is None else Path(file).read_bytes()
        except OSError as error:
            raise EtcdFailure(f"cluster.etcd.{name}: {file}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(found["ca"], found["key"], found["certificate"])


def _read(prefix: bytes, kvs: Sequence[pb.KeyValue]) -> Iterator[Member]:
    for kv in kvs:
        try:
            member = msgspec.json.decode(kv.value, type=Member)
        except msgspec.MsgspecError:
            continue
        if kv.key == prefix + member.id.encode():
            yield member


def _end(prefix: bytes) -> bytes:
    """The first key behind all that begin with this."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def _said(error: grpc.aio.AioRpcError) -> str:
    text = " ".join((error.details() or "").split())
    code = error.code()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {CALL_S:g} s"
    if "authentication failed" in text or code == grpc.StatusCode.UNAUTHENTICATED:
        return "the login is refused; correct cluster.etcd.user and its password"
    if code == grpc.StatusCode.PERMISSION_DENIED or "user name is empty" in text:
        return f"{text.removeprefix('etcdserver: ')}; see cluster.etcd.user and its role in etcd"
    if code != grpc.StatusCode.UNAVAILABLE:
        return text.removeprefix("etcdserver: ") or code.name.lower()
    if "CERTIFICATE_VERIFY_FAILED" in text or "Hostname Verification" in text:
        return "its certificate is not believed; see cluster.etcd.ca and the names in it"
    if any(sign in text for sign in ("Socket closed", "andshake", "alert", "unwrap failed")):
        return (
            "it closes the connection: TLS on one side only (cluster.etcd.ca), or our certificate "
            "is refused (cluster.etcd.certificate)"
        )
    last = _LAST.match(text)
    return (last[1].strip() if last else text).lower() or "no connection"
