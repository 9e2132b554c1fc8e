# SPDX-License-Identifier: Apache-2.0
"""A whole cluster: three nodes, three members of etcd, one Cassandra, the wires between them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from durability.crowd import named
from support.antiphon import Table
from support.cassandra import Cassandra
from support.certs import Authority
from support.client import Client
from support.endpoint import Account
from support.server import ServerFailed

from . import status
from .authority import ClusterAuthority
from .etcd import NEW as NEW_ETCD
from .etcd import Etcd
from .network import Network
from .node import DOMAIN, DOMAINS, Node, Wiring
from .writes import Write

PASSWORD = "chaos"
SETTLE_S = 45.0
POLL_S = 0.3


class Unsettled(AssertionError):
    """The cluster did not come to rest; the message says how far it came."""


class Site:
    """Everything that one cluster needs; `start` it, break it, `heal` it, `close` it."""

    def __init__(
        self,
        network: Network,
        ring: Cassandra,
        *,
        count: int = 3,
        sections: Mapping[str, Table] | None = None,
        tells_writes: bool = False,
        etcd: str = NEW_ETCD,
    ) -> None:
        """`ring` runs, and the places of `network` reach it; `etcd` is a series. With `tells_writes`, what nodes write
        can be judged (`writes`)."""
        self.tells_writes = tells_writes
        self.store = ring
        self.network = network
        self.folder = Path(tempfile.mkdtemp(prefix="antiphon-cluster-"))
        self.authority = ClusterAuthority(self.folder / "ca")
        self.etcd = Etcd.at([network.place(f"etcd{n}") for n in range(3)], etcd)
        self.keyspace = f"cluster_{token_hex(6)}"
        self.wiring = Wiring(
            self.etcd.endpoints,
            tuple(ring.contact_points),
            self.keyspace,
            self.authority.ca,
            Authority(self.folder / "clients").server(DOMAIN),
            sections or {},
        )
        self.nodes: dict[str, Node] = {}
        for name in "abcdefgh"[:count]:
            self.add(name)
        self._made = 0
        self._domains = list(reversed(DOMAINS[1:]))

    # -- parts -----------------------------------------------------------
    def add(self, name: str) -> Node:
        """One more node, not started."""
        pair = self.authority.node(name)
        node = Node(name, self.network.place(name), self.folder / name, self.wiring, pair)
        node.tells_writes = self.tells_writes
        self.nodes[name] = node
        return node

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def up(self) -> list[Node]:
        """Nodes that run."""
        return [node for node in self.nodes.values() if node.is_up]

    # -- life ------------------------------------------------------------
    def start(self) -> None:
        """Starts everything and waits until all shards are served."""
        self.etcd.start()
        first, *_ = self.nodes.values()
        first.write_config()
        done = first.command("migrate", timeout_s=120)
        if done.returncode != 0:
            raise ServerFailed(f"migrate failed: {done.stdout}{done.stderr}")
        first.start()
        self.heal()

    def heal(self) -> None:
        """All is whole again: cuts taken back, the frozen thawed, the dead started."""
        self.network.heal()
        self.etcd.heal()
        for node in self.nodes.values():
            if node.is_frozen:
                node.thaw()
            if node.process is not None and node.process.poll() is not None:
                node.process = None  # it ended by itself, as one that was fenced may
            if node.process is None:
                node.spawn()
        for node in self.nodes.values():
            node.wait_ready()
        self.wait_settled()

    def wait_settled(
        self, *nodes: Node, timeout_s: float = SETTLE_S, members: Iterable[str] | None = None
    ) -> dict[str, status.Status]:
        """Waits until these (all that run, unless named) agree and serve every shard.

        With `members`: until the cluster consists of these alone. Raises `Unsettled`.
        """
        asked = list(nodes) or self.up
        names = {node.name for node in asked} if members is None else set(members)
        deadline = time.monotonic() + timeout_s
        said = "nobody was asked"
        while True:
            try:
                found = self.statuses(asked)
                silent = {node.name for node in asked} - set(found)
                said = f"{sorted(silent)} say nothing" if silent else _unrest(found, names)
            except status.NoStatus as error:
                said = str(error)
            else:
                if not said:
                    return found
            if time.monotonic() > deadline:
                raise Unsettled(f"after {timeout_s:.0f} s: {said}\n{self.logs()}")
            time.sleep(POLL_S)

    def wait_relayed(self, timeout_s: float = SETTLE_S) -> None:
        """Waits until nothing that one node has sent another is still to be done there.

        Raises `Unsettled`.
        """
        deadline = time.monotonic() + timeout_s
        while waiting := {
            name: one.pending for name, one in self.statuses(self.up).items() if one.pending
        }:
            if time.monotonic() > deadline:
                raise Unsettled(f"after {timeout_s:.0f} s not done: {waiting}\n{self.logs()}")
            time.sleep(POLL_S)

    def wait_still(self, seconds: float = 3.0, timeout_s: float = SETTLE_S) -> int:
        """Waits until nodes share evenly and the map has not changed for a while; its epoch.

        Evening out begins some seconds after a join. Raises `Unsettled`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.wait_settled()
            before = {one.epoch for one in found.values()}
            time.sleep(seconds)
            found = self.wait_settled()
            after = {one.epoch for one in found.values()}
            shares = [one.by_node.get(name, 0) for one in found.values() for name in found]
            is_even = max(shares) <= 1.25 * min(shares)
            if before == after and len(after) == 1 and is_even:
                return after.pop()
            if time.monotonic() > deadline:
                raise Unsettled(
                    f"the map changes all the time: {before}, then {after}, shares {shares}"
                )

    def statuses(self, nodes: Iterable[Node] | None = None) -> dict[str, status.Status]:
        """How each of these (all that run) sees the cluster. Raises `NoStatus`."""
        return status.of(nodes if nodes is not None else self.up)

    def close(self) -> None:
        """Ends everything and removes its data; nothing that fails stops it."""
        with suppress(Exception):
            self.network.heal()
        for node in self.nodes.values():
            node.kill()
        self.etcd.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"== {n.name}\n{n.log_text(tail=1_500)}" for n in self.nodes.values())

    def writes(self, since: Mapping[str, int] | None = None) -> list[Write]:
        """Whose rows all nodes have written, behind these places of their files."""
        found: list[Write] = []
        for name, node in self.nodes.items():
            found += node.writes((since or {}).get(name, 0))
        return found

    def writes_so_far(self) -> dict[str, int]:
        """How much each node's file of writes holds, bytes."""
        logs = {name: node.write_log for name, node in self.nodes.items()}
        return {name: log.stat().st_size for name, log in logs.items() if log.exists()}

    # -- users -----------------------------------------------------------
    def crowd(self, count: int) -> list[Account]:
        """Users of a domain that no load has had yet, so that their archives are empty."""
        assert self._domains, "no domain is left for a load: make another site"
        domain = self._domains.pop()
        accounts = [Account(f"{named(n)}@{domain}", PASSWORD) for n in range(count)]
        self.up[0].create(accounts)
        return accounts

    def strangers(self, count: int) -> list[Account]:
        """Accounts that no other test has."""
        self._made += count
        first = self._made - count
        accounts = [Account(f"s{first + n:05d}@{DOMAIN}", PASSWORD) for n in range(count)]
        self.up[0].create(accounts)
        return accounts

    async def online(
        self,
        node: Node,
        account: Account,
        resource: str,
        *,
        priority: int | None = None,
        sm: bool = False,
    ) -> Client:
        """A client on a node that is available and has fetched its roster."""
        client = Client(node.door, account, f"{account.user}/{resource}@{node.name}")
        client.auto_ack = True
        await client.login(resource)
        if sm:
            await client.sm_enable()
        await client.roster()
        await client.online(priority)
        return client


def _unrest(found: Mapping[str, status.Status], names: set[str]) -> str:
    """Why a cluster is not at rest yet; empty if it is."""
    for name, one in found.items():
        if set(one.members) != names:
            return f"{name} sees {sorted(one.members)}, not {sorted(names)}"
        odd = {member: state for member, state in one.members.items() if state != "up"}
        if odd:
            return f"{name} sees {odd}"
        without = [member for member in one.members if not one.by_node.get(member)]
        if without:
            return f"{name}: no shards for {without}"
        if not one.is_at_rest:
            return f"{name}: {one.coming} shards are coming, {one.going} are going"
    if len({one.epoch for one in found.values()}) > 1:
        return f"epochs { ({n: one.epoch for n, one in found.items()}) }"
    served = sum(one.served for one in found.values())
    if set(found) == names and served != status.SHARDS:
        return f"{served} of {status.SHARDS} shards are served"
    return ""
