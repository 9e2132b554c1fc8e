# SPDX-License-Identifier: Apache-2.0
"""What nodes count of shards that go from one to another, and of what comes twice."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from .node import Node

HANDOVERS = "antiphon_cluster_handovers_total"
KINDS = ("released", "taken_clean", "taken_unclean", "dropped")
DEDUPLICATED = "antiphon_cluster_deduplicated_total"
AGAIN = "antiphon_relay_again_total"
RESETS = "antiphon_relay_resets_total"


@dataclass(frozen=True)
class Handovers:
    """Shards that went from or to some nodes since their starts, in all of them together."""

    released: int = 0
    """Given away in order."""
    taken_clean: int = 0
    """Taken from a node that gave them."""
    taken_unclean: int = 0
    """Taken from one that died."""
    dropped: int = 0
    """Lost with the lease."""

    def since(self, before: Handovers) -> Handovers:
        """What was added."""
        return Handovers(**{k: getattr(self, k) - getattr(before, k) for k in KINDS})


FRESH_S = 0.6
"""A node reads these at most twice a second (python/antiphon/node/measure.py)."""


def handovers(nodes: Iterable[Node]) -> Handovers:
    """As these count them; all must run."""
    asked = list(nodes)
    time.sleep(FRESH_S)
    return Handovers(
        **{kind: round(sum(n.metric(HANDOVERS, kind=kind) for n in asked)) for kind in KINDS}
    )
