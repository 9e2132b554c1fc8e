# SPDX-License-Identifier: Apache-2.0
"""An etcd in memory: what the command line asks of one, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from antiphon.cluster._gen import etcd_pb2 as pb

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Answering: TypeAlias = Callable[[Any, Context], Awaitable[Message]]
Handlers: TypeAlias = "dict[str, grpc.RpcMethodHandler[Any, Any]]"


@dataclass
class FakeEtcd:
    """One member; `keys` is everything it holds."""

    keys: dict[bytes, bytes] = field(default_factory=dict)
    version: str = "3.6.16"
    leader: int = 1
    password: str | None = None
    may_read: bool = True
    address: str = ""
    logins: int = 0
    is_hung: bool = False

    async def open(self) -> None:
        self._server = grpc.aio.server()
        calls: dict[str, dict[str, tuple[Answering, type[Message]]]] = {
            "KV": {"Range": (self._range, pb.RangeRequest)},
            "Maintenance": {"Status": (self._status, pb.StatusRequest)},
            "Auth": {"Authenticate": (self._login, pb.AuthenticateRequest)},
        }
        for service, methods in calls.items():
            handlers: Handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    answer,
                    request_deserializer=request.FromString,
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, (answer, request) in methods.items()
            }
            made = grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", handlers)
            self._server.add_generic_rpc_handlers((made,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def close(self) -> None:
        await self._server.stop(0)

    async def _allowed(self, context: Context) -> None:
        if self.is_hung:
            await asyncio.sleep(60)
        tokens = [value for key, value in context.invocation_metadata() or () if key == "token"]
        if self.password is not None and tokens != ["t"]:
            text = "etcdserver: user name is empty"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)

    async def _status(self, _request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        await self._allowed(context)
        header = pb.ResponseHeader(member_id=1, revision=9)
        return pb.StatusResponse(
            header=header, version=self.version, dbSize=20_480, leader=self.leader
        )

    async def _range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse:
        await self._allowed(context)
        if not self.may_read:
            text = "etcdserver: permission denied"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        found = [
            pb.KeyValue(key=key, value=value)
            for key, value in sorted(self.keys.items())
            if request.key <= key < request.range_end
        ]
        return pb.RangeResponse(kvs=found, count=len(found))

    async def _login(
        self, request: pb.AuthenticateRequest, context: Context
    ) -> pb.AuthenticateResponse:
        self.logins += 1
        if request.password != self.password:
            text = "etcdserver: authentication failed, invalid user ID or password"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        return pb.AuthenticateResponse(token="t")
