# SPDX-License-Identifier: Apache-2.0
"""Operations of the core on what lives on other nodes (see `api.Elsewhere`).

An entity's data change in its own order, at its home only, so a call for one that lives elsewhere
is carried out there. While a shard moves the call waits for its new home. Sessions are listed and
counted where their sockets are, so for a domain all nodes are asked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from antiphon.cluster.api import ControlError, Material, Served
from antiphon.cluster.remote import NotHome, Remote
from antiphon.cluster.status import read
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid

LONGEST_S = 10.0
"""A call for an entity without a home that can be reached waits so long."""
ANSWER_S = 20.0
"""The home may take so long; below the deadline of a handler."""
_PAUSE_S = 0.05
_LOOK_S = 0.5
_MOST_WAITING = 1_024
"""Calls to other nodes at once."""


def _merged(found: Sequence[object], arguments: tuple[object, ...]) -> object:
    """Lists of addresses in the order of their text as one, as long as was asked for."""
    limit = arguments[-1]
    lists = [one for one in found if isinstance(one, list)]
    return sorted(itertools.chain(*lists), key=str)[: limit if isinstance(limit, int) else None]


def _summed(found: Sequence[object], _arguments: tuple[object, ...]) -> object:
    return sum(one for one in found if isinstance(one, int))


GATHERED = {"sessions.all": _merged, "sessions.count": _summed}
"""Operations that are asked of every node, and how their answers are put together."""


class _Place(NamedTuple):
    """A node's control port, in one of the node's lives."""

    address: str
    incarnation: int


class _Way(NamedTuple):
    place: _Place
    remote: Remote


class Ways:
    """Connections to the control ports of other nodes, made when they are first needed."""

    def __init__(self, served: Served, material: Material) -> None:
        self._served = served
        self._material = material
        self._ways: dict[str, _Way] = {}
        self._known: Mapping[str, _Place] = {}
        self._look_again = 0.0
        self._waiting = 0
        self._closing: set[asyncio.Task[None]] = set()

    def is_away(self, operation: str, arguments: tuple[object, ...]) -> bool:
        """See Elsewhere."""
        if operation in GATHERED:
            return True
        owner = arguments[0] if arguments else None
        return isinstance(owner, Jid) and self._served.home(owner) != self._served.name

    async def call(self, operation: str, arguments: tuple[object, ...]) -> object:
        """See Elsewhere."""
        if self._waiting >= _MOST_WAITING:
            raise StanzaError("resource-constraint", "too many calls to other nodes", "wait")
        self._waiting += 1
        try:
            if operation in GATHERED:
                return await self._gather(operation, arguments)
            return await self._call(operation, arguments)
        finally:
            self._waiting -= 1

    async def _call(self, operation: str, arguments: tuple[object, ...]) -> object:
        owner = arguments[0]
        if not isinstance(owner, Jid):
            raise TypeError("the first argument is the entity")
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST_S
        reason = "nobody owns it yet"
        while True:
            home = self._served.home(owner)
            try:
                if home == self._served.name:
                    return await self._served.call_here(operation, *arguments)
                if home is not None:
                    return await self.to(home).call(operation, arguments, ANSWER_S)
            except NotHome:
                reason = f"it is moving to or from {home}"
            except ControlError as error:
                reason = str(error)
                if not error.is_unreached:
                    raise StanzaError("remote-server-timeout", reason) from error
            if loop.time() >= until:
                raise StanzaError("resource-constraint", f"try again: {reason}", "wait")
            await asyncio.sleep(_PAUSE_S)

    async def _gather(self, operation: str, arguments: tuple[object, ...]) -> object:
        asked = [
            self.to(name).call(operation, arguments, ANSWER_S)
            for name in self._places(is_fresh=True)
            if name != self._served.name
        ]
        try:
            found = await asyncio.gather(self._served.call_here(operation, *arguments), *asked)
        except ControlError as error:
            raise StanzaError("remote-server-timeout", str(error)) from error
        return GATHERED[operation](found, arguments)

    def to(self, node: str) -> Remote:
        """The control port of a member. Raises ControlError for a node that is none."""
        place = self._places().get(node) or self._places(is_fresh=True).get(node)
        if place is None:
            raise ControlError(f"{node} is no member of the cluster", is_unreached=True)
        found = self._ways.get(node)
        if found is not None and found.place == place:
            return found.remote
        if found is not None:
            # To a former life, too: where its machine vanished, the connection never heard its end,
            # and would break the next call off.
            self._end(found.remote)
        made = Remote(node, place.address, self._material)
        self._ways[node] = _Way(place, made)
        return made

    def _places(self, *, is_fresh: bool = False) -> Mapping[str, _Place]:
        """The members' control ports by name, from a look that may be half a second old."""
        now = asyncio.get_running_loop().time()
        if is_fresh or now >= self._look_again:
            try:
                status = read(self._served.status())
            except ValueError as error:
                raise ControlError(str(error), is_unreached=True) from error
            members = status.members if status is not None else []
            self._known = {one.id: _Place(one.control, one.incarnation) for one in members}
            self._look_again = now + _LOOK_S
            for name in self._ways.keys() - self._known.keys():
                self._end(self._ways.pop(name).remote)
        return self._known

    def renew(self, material: Material) -> None:
        """Shows these certificates from now on."""
        self._material = material
        for way in self._ways.values():
            self._end(way.remote)
        self._ways.clear()

    async def close(self) -> None:
        """Ends every connection."""
        self.renew(self._material)
        await asyncio.gather(*self._closing)

    def _end(self, remote: Remote) -> None:
        async def later() -> None:
            # Calls that are under way may still be answered.
            await asyncio.sleep(0)
            await remote.close()

        task = asyncio.get_running_loop().create_task(later())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
