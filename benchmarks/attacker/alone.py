# SPDX-License-Identifier: Apache-2.0
"""What one hostile connection costs, with the limits that would stop the measurement off.

What a kind needs beforehand (sessions, say) is prepared and not counted; then it is done so many
times, by one process with blocking sockets and bytes made before. Counted are the processor time of
the node and of this process until then and for a while after, and what the node has grown by at
most, the kernel's buffers left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from support.hostile import resident_kb
from support.server import Settings

from .kinds import KINDS, well_behaved
from .node import idle_share, processor_ms, remember_proofs, staged
from .peers import Stage

HOLD_S = 4.0
WARM = 4
MOST_ACCOUNTS = 150
SETTINGS = Settings.of(
    limits={"stanzas_per_second": 0, "bytes_per_second": 0, "auth_failures_per_minute": 0},
    auth={"allow_plaintext": True},
)


@dataclass
class Row:
    """One line of the table; KB and ms for each connection."""

    kind: str
    number: int
    memory_kb: float
    sent_kb: float
    node_ms: float
    attacker_ms: float
    node_ms_per_minute: float

    @property
    def cells(self) -> list[str]:
        """As shown."""
        ratio = self.node_ms / self.attacker_ms if self.attacker_ms else 0.0
        return [
            self.kind, str(self.number), f"{self.memory_kb:.1f}", f"{self.sent_kb:.1f}",
            f"{self.node_ms:.3f}", f"{self.attacker_ms:.3f}", f"{ratio:.1f}",
            f"{self.node_ms_per_minute:.2f}", KINDS[self.kind].bound,
        ]  # fmt: skip


HEAD = [
    "each connection", "number", "memory KB", "sent KB", "node ms", "attacker ms",
    "node/attacker", "node ms a minute held", "bounded by",
]  # fmt: skip
ABOUT = [
    "With the limits out of the way: one Python process with recorded bytes is the attacker; what",
    "an idle node spends is left out. Where node/attacker is above 1 the last column names the",
    "limit that keeps an address or a client from repeating it.",
]


def measure(kind: str) -> Row:
    """One kind on a node of its own."""
    accounts = min(KINDS[kind].number + WARM, MOST_ACCOUNTS)
    with staged(SETTINGS, accounts) as stage:
        return _measured(stage, kind)


def _measured(stage: Stage, kind: str) -> Row:
    act, count, server = KINDS[kind].act, KINDS[kind].number, stage.server
    time.sleep(1)
    idle = idle_share(server)
    if act is well_behaved:
        remember_proofs(stage)
    if KINDS[kind].needs_session:
        stage.ready = [stage.direct().session() for _ in range(count + WARM)]
    for _ in range(WARM):
        act(stage)
    time.sleep(1)
    before, stage.sent = resident_kb(server), 0
    stage.peak_kb = before
    began, node, own = time.monotonic(), processor_ms(server), time.process_time()
    for _ in range(count):
        act(stage)
    own = time.process_time() - own
    stage.look()
    # what was only sent is still to be worked on
    time.sleep(1)
    opened = processor_ms(server) - idle * (time.monotonic() - began)
    stage.look()
    time.sleep(HOLD_S)
    held = processor_ms(server) - idle * (time.monotonic() - began)
    stage.look()
    return Row(
        kind=kind,
        number=count,
        memory_kb=(stage.peak_kb - before) / count,
        sent_kb=stage.sent / 1024 / count,
        node_ms=(opened - node) / count,
        attacker_ms=own * 1000 / count,
        node_ms_per_minute=max(0.0, held - opened) / count * 60 / HOLD_S,
    )
