# SPDX-License-Identifier: Apache-2.0
"""Watches who says that he serves how many shards, while things happen to the nodes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from .site import Site
from .status import SHARDS, NoStatus, Status

OFTEN_S = 0.3


@dataclass
class MapWatch:
    """What every node that answered said, again and again."""

    site: Site
    rounds: list[dict[str, Status]] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MapWatch:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            with suppress(NoStatus):
                self.rounds.append(await asyncio.to_thread(self.site.statuses))
            await asyncio.sleep(OFTEN_S)

    def two_owners(self) -> list[str]:
        """Rounds in which nodes of one epoch served more shards together than there are.

        Nodes are asked one after the other, so those that hand shards over are not counted.
        """
        wrong = []
        for number, found in enumerate(self.rounds):
            by_epoch: dict[int, int] = {}
            for one in found.values():
                if one.is_at_rest:
                    by_epoch[one.epoch] = by_epoch.get(one.epoch, 0) + one.served
            wrong += [
                f"round {number}: {served} shards served in epoch {epoch}"
                for epoch, served in by_epoch.items()
                if served > SHARDS
            ]
        return wrong

    def maps(self) -> list[str]:
        """Epochs of which two nodes were shown different maps."""
        known: dict[int, dict[str, int]] = {}
        wrong = []
        for found in self.rounds:
            for name, one in found.items():
                if known.setdefault(one.epoch, one.by_node) != one.by_node:
                    wrong.append(f"{name} has another map of epoch {one.epoch}")
        return wrong
