# SPDX-License-Identifier: Apache-2.0
"""Asks a cluster how it is: the node beside us, etcd, and every member."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from antiphon.admin.protocol import Runner
from antiphon.cli.failure import Failure
from antiphon.cluster import tls
from antiphon.cluster.api import Calls, ControlError, Material, ask_etcd, connect
from antiphon.cluster.judge import View
from antiphon.cluster.status import ClusterStatus, EtcdMember, Member
from antiphon.config.core import control_address
from antiphon.config.schema import Config

ASK_S = 3.0
"""A node may take so long to tell how it is."""
RUN_S = 60.0
"""An administrative command may take so long."""
MOST_AT_ONCE = 32


@dataclass
class Look:
    """What was found. `asked` is the node whose view counts, None if none has answered."""

    asked: str | None
    view: View
    documents: dict[str, object] = field(default_factory=dict)
    """What each node said, as JSON's types."""
    absent: str | None = None
    """Why the node of this configuration, which is no member, does not answer."""


@dataclass
class _Answer:
    name: str
    status: ClusterStatus | None = None
    document: object = None
    fault: str = ""


class Cluster:
    """The ways to the nodes of one cluster; use it in one loop, and close it."""

    def __init__(self, config: Config) -> None:
        """Raises Failure for certificates that cannot be used."""
        self._config = config
        self._calls: dict[tuple[str, str], Calls] = {}
        self._material = _material(config)

    async def close(self) -> None:
        """Ends every connection."""
        await asyncio.gather(*(one.close() for one in self._calls.values()))

    def to(self, node: str, address: str) -> Calls:
        """The control port of a node."""
        found = self._calls.get((node, address))
        if found is None:
            found = self._calls[(node, address)] = connect(node, address, self._material)
        return found

    def own(self) -> Calls:
        """The node of this configuration, beside us."""
        return self.to(self._config.node.name, control_address(self._config, is_local=True))

    async def look(self) -> Look:
        """Asks everybody."""
        name = self._config.node.name
        own, (etcd, listed, fault) = await asyncio.gather(
            self._ask(name, self.own()), ask_etcd(self._config.cluster.etcd)
        )
        answers = {name: own}
        members = own.status.members if own.status is not None else listed
        await self._ask_all([one for one in members if one.id != name], answers)
        if own.status is None:
            # The view of a node is newer than what etcd lists, and there without etcd.
            known = [one.status for one in answers.values() if one.status is not None]
            latest = max(known, key=lambda one: one.epoch, default=None)
            if latest is not None:
                members = latest.members or members
                more = [one for one in members if one.id not in answers]
                await self._ask_all(more, answers)
        return _found(name, answers, members, (etcd, fault))

    async def members(self) -> list[Member]:
        """Who is in, by the first who knows: the node beside us, etcd. Raises Failure."""
        own = await self._ask(self._config.node.name, self.own())
        if own.status is not None and own.status.members:
            return own.status.members
        _etcd, listed, fault = await ask_etcd(self._config.cluster.etcd)
        if fault is not None:
            raise Failure(f"{own.fault or 'no member is known'}; and etcd: {fault}")
        return listed

    async def _ask_all(self, members: list[Member], answers: dict[str, _Answer]) -> None:
        room = asyncio.Semaphore(MOST_AT_ONCE)

        async def one(member: Member) -> None:
            async with room:
                answers[member.id] = await self._ask(member.id, self.to(member.id, member.control))

        await asyncio.gather(*map(one, members))

    async def _ask(self, name: str, calls: Calls) -> _Answer:
        try:
            status, document = await calls.status(ASK_S)
        except ControlError as error:
            return _Answer(name, fault=str(error))
        return _Answer(name, status, document)


@contextlib.asynccontextmanager
async def cluster(config: Config) -> AsyncIterator[Cluster]:
    """A `Cluster` that is closed at the end."""
    found = Cluster(config)
    try:
        yield found
    finally:
        await found.close()


class MemberRunner:
    """Administrative commands on a member of the cluster; see antiphon.admin.protocol.Runner."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        """See Runner."""
        try:
            return await self._calls.run(command, arguments, RUN_S)
        except ControlError as error:
            raise Failure(str(error)) from error


@contextlib.asynccontextmanager
async def member_runner(config: Config) -> AsyncIterator[Runner | None]:
    """Commands on any member that answers; None if etcd says that there is no member.

    Data of a cluster are changed through their owners only, so without an answer nothing is done.
    Raises Failure.
    """
    async with cluster(config) as found:
        _etcd, listed, fault = await ask_etcd(config.cluster.etcd)
        if fault is not None:
            raise Failure(
                f"this node does not run, and etcd cannot be asked for others ({fault}); nothing "
                "was changed"
            )
        faults: list[str] = []
        for member in listed:
            calls = found.to(member.id, member.control)
            try:
                await calls.health(ASK_S)
            except ControlError as error:
                faults.append(str(error))
                continue
            yield MemberRunner(calls)
            return
        if faults:
            raise Failure(f"no node of the cluster answers: {'; '.join(faults)}")
        yield None


def _material(config: Config) -> Material:
    try:
        return tls.read(config.cluster.tls)
    except ControlError as error:
        raise Failure(str(error)) from error


def _found(
    name: str,
    answers: Mapping[str, _Answer],
    members: list[Member],
    etcd: tuple[list[EtcdMember], str | None],
) -> Look:
    nodes = {one.name: one.status for one in answers.values() if one.status is not None}
    listed = {one.id for one in members}
    own = answers[name]
    is_absent = own.status is None and name not in listed
    silent = {
        one.name: one.fault
        for one in answers.values()
        if one.status is None and (one.name in listed or not is_absent)
    }
    asked = name if own.status is not None else next(iter(sorted(nodes)), None)
    view = View(
        nodes=nodes,
        silent={key: text for key, text in silent.items() if key != name or not is_absent},
        members=sorted(members, key=lambda one: one.id),
        etcd=etcd[0],
        etcd_fault=etcd[1],
    )
    documents = {one.name: one.document for one in answers.values() if one.status is not None}
    return Look(asked, view, documents, own.fault if is_absent else None)
