# SPDX-License-Identifier: Apache-2.0
"""What one address gets by repeating a hostile act as fast as it can, with the default limits.

Some processes repeat it for some seconds: they connect again when closed and log in again when
thrown out, by SCRAM over TLS with the salted password remembered, as a real client does; refusals
count like the rest. Counted are the processor time of both sides over the whole, what the node has
grown by at the end, while the attacker still holds what it has, and once it is gone.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from antiphon.config.schema import Auth, Limits
from support import antiphon
from support.hostile import resident_kb
from support.server import Settings

from .kinds import KINDS, Act
from .node import idle_share, processor_ms, staged
from .peers import MOST_KEPT, Stage

SECONDS = 5.0
PROCESSES = 2
SETTLE_S = 5.0
ACCOUNTS = 16
RENEWALS = 10
"""New connections that an address may make in a minute, for each that it may have open."""
FORK = multiprocessing.get_context("fork")


def default_settings() -> Settings:
    """The node as it comes: what tests turn off is on."""
    turned_off = antiphon.DEFAULTS["limits"]
    limits = {name: getattr(Limits(), name) for name in turned_off}
    return Settings.of(limits=limits, auth={"scram_iterations": Auth().scram_iterations})


@dataclass
class Share:
    """What one process has done."""

    done: int = 0
    refused: int = 0
    cpu_ms: float = 0.0
    sent_kb: float = 0.0


@dataclass
class Row:
    """One line of the table; ms of the whole run."""

    kind: str
    done: int
    refused: int
    sent_kb: float
    node_ms: float
    attacker_ms: float
    seconds: float
    memory_end_kb: int
    memory_after_kb: int

    @property
    def ratio(self) -> float:
        """What the node pays for each ms that the attacker pays."""
        return self.node_ms / self.attacker_ms if self.attacker_ms else 0.0

    @property
    def bound_ms_per_s(self) -> float:
        """What may be repeated at most costs at this price, a second.

        Each time is a connection and, where there is one, its login; refusals are among the price.
        Of an address by the connections that it may make; of an account, where one is needed, by
        what all its clients may send, whichever is less.
        """
        limits, done = Limits(), max(1, self.done)
        times = [limits.connections_per_address * RENEWALS / 60]
        if KINDS[self.kind].needs_session:
            size = self.sent_kb * 1024 / done
            times.append(limits.sessions_per_user * limits.bytes_per_second / max(1.0, size))
        if stanzas := KINDS[self.kind].stanzas:
            times.append(limits.sessions_per_user * limits.stanzas_per_second / stanzas)
        return self.node_ms / done * min(times)

    @property
    def cells(self) -> list[str]:
        """As shown."""
        return [
            self.kind, str(self.done), str(self.refused), f"{self.sent_kb / 1024:.1f}",
            f"{self.node_ms:.0f}", f"{self.attacker_ms:.0f}", f"{self.ratio:.2f}",
            f"{self.node_ms / self.seconds / 10:.0f}", f"{self.bound_ms_per_s:.0f}",
            f"{self.memory_end_kb / 1024:.1f}", f"{self.memory_after_kb / 1024:.1f}",
            KINDS[self.kind].bound,
        ]  # fmt: skip


HEAD = [
    "one address, repeating", "times", "refused", "sent MB", "node ms", "attacker ms",
    "node/attacker", "node % of a core", "node ms/s at most", "memory MB at the end", "and after",
    "bounded by",
]  # fmt: skip
ABOUT = [
    f"With the default limits: {PROCESSES} Python processes of one address repeat it as fast as",
    f"they can for {SECONDS:.0f} s, with {ACCOUNTS} accounts where they log in (TLS and a SCRAM",
    "proof each time). All that an address may do in a minute may be spent within these seconds;",
    "what comes later is refused, which is part of the row. Floods spend all that a client may",
    "send at once and log in again, which is the dearest that they can be; it brings them no more,",
    "for an account is held to its rate over its logins. `node ms/s at most` bounds who goes on",
    "for longer: the price of one time by the connections that an address may make",
    f"({RENEWALS} x connections_per_address a minute); where an account is needed, by what its",
    "clients may send (sessions_per_user x stanzas_per_second, or bytes_per_second) if that is",
    "less: so much for each account that the attacker has.",
]


def attack(stage: Stage, act: Act, number: int, pipe: Connection) -> None:
    """One process: repeats it, tells, and keeps what it holds until it is told to go."""
    share, began = Share(), time.process_time()
    # Each begins with other accounts, so that they do not meet.
    for _ in range(number * len(stage.accounts) // PROCESSES):
        stage.next_account()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            act(stage)
            share.done += 1
        except OSError:
            share.refused += 1
    share.cpu_ms = (time.process_time() - began) * 1000
    share.sent_kb = stage.sent / 1024
    pipe.send(share)
    pipe.recv()


def measure(kind: str) -> Row:
    """One kind on a node of its own."""
    with staged(default_settings(), ACCOUNTS) as stage:
        return _measured(stage, kind)


def _measured(stage: Stage, kind: str) -> Row:
    server = stage.server
    stage.is_scram = stage.is_secure = True
    stage.most_kept = MOST_KEPT // PROCESSES
    for _ in range(2 * len(stage.accounts)):
        # Derives what clients remember; later than the node's first, which is slower.
        stage.passing().session().sock.close()
    time.sleep(1)
    idle = idle_share(server)
    act = KINDS[kind].sustained or KINDS[kind].act
    before, node, began = resident_kb(server), processor_ms(server), time.monotonic()
    pipes = [FORK.Pipe() for _ in range(PROCESSES)]
    crowd = [
        FORK.Process(target=attack, args=(stage, act, number, theirs))
        for number, (_, theirs) in enumerate(pipes)
    ]
    for process in crowd:
        process.start()
    shares: list[Share] = [ours.recv() for ours, _ in pipes]
    seconds = time.monotonic() - began
    end_kb = resident_kb(server)
    # what was only sent is still to be worked on
    time.sleep(1)
    spent = processor_ms(server) - node - idle * (time.monotonic() - began)
    end_kb = max(end_kb, resident_kb(server))
    for (ours, _), process in zip(pipes, crowd, strict=True):
        ours.send(None)
        process.join()
    time.sleep(SETTLE_S)
    return Row(
        kind=kind,
        done=sum(share.done for share in shares),
        refused=sum(share.refused for share in shares),
        sent_kb=sum(share.sent_kb for share in shares),
        node_ms=spent,
        attacker_ms=sum(share.cpu_ms for share in shares),
        seconds=seconds,
        memory_end_kb=end_kb - before,
        memory_after_kb=resident_kb(server) - before,
    )
