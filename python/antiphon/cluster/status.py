# SPDX-License-Identifier: Apache-2.0
"""What a node knows of the cluster and of itself, as `Core.cluster_status` tells it.

Fields are only added; one that a node does not know yet has its default.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct, field

OLDEST_ETCD = (3, 5)
"""The first version that is supported."""


class Traffic(Struct, frozen=True, kw_only=True):
    """One way of a link, since the peer's life began. `again`: sent again, or known and dropped."""

    frames: int = 0
    stanzas: int = 0
    bytes: int = 0
    again: int = 0


class Peer(Struct, frozen=True, kw_only=True, rename={"traffic_class": "class"}):
    """The links to and from one peer, of one class (`stanzas`, `bulk`).

    `is_up`: what we send goes; `via`: over which third node, while the direct way is cut;
    `is_heard`: what it sends comes. `queued_bytes` wait for the socket, `pending` units wait to be
    done.
    """

    node: str
    incarnation: int = 0
    traffic_class: str = "stanzas"
    is_up: bool = False
    via: str | None = None
    is_heard: bool = False
    connects: int = 0
    resets: int = 0
    queued_bytes: int = 0
    pending: int = 0
    sent: Traffic = field(default_factory=Traffic)
    received: Traffic = field(default_factory=Traffic)


class Member(Struct, frozen=True, kw_only=True):
    """A node as it stands in etcd; `relay` and `control` are `host:port`."""

    id: str
    incarnation: int = 0
    zone: str | None = None
    version: str = ""
    state: str = ""
    """joining, up or draining."""
    relay: str = ""
    control: str = ""


class Shards(Struct, frozen=True, kw_only=True):
    """`served` here, `coming` here and not served yet, `going` away; owners by the map."""

    all: int = 4096
    served: int = 0
    coming: int = 0
    going: int = 0
    by_node: dict[str, int] = field(default_factory=dict)


class Handovers(Struct, frozen=True, kw_only=True):
    """Shards that were given away, taken from a node that gave them, taken from one that did not,
    and dropped when this node's life ended."""

    released: int = 0
    taken_clean: int = 0
    taken_unclean: int = 0
    dropped: int = 0


class EtcdFigures(Struct, frozen=True, kw_only=True):
    """The node's own client of etcd; `last_contact_ms` is the age of its last answer."""

    endpoint: str | None = None
    calls: int = 0
    failures: int = 0
    last_contact_ms: int | None = None


class EtcdMember(Struct, frozen=True, kw_only=True):
    """One member of etcd: what it says of itself, or in `fault` why it says nothing."""

    endpoint: str
    fault: str | None = None
    version: str = ""
    db_bytes: int = 0
    revision: int = 0
    is_leader: bool = False
    has_leader: bool = False

    @property
    def is_old(self) -> bool:
        """Whether it is before the first supported version."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return found is not None and (int(found[1]), int(found[2])) < OLDEST_ETCD


class ClusterStatus(Struct, frozen=True, kw_only=True):
    """One node's view. `incarnation` 0: it is not in the cluster."""

    node: str
    incarnation: int = 0
    stage: str = ""
    """joining, in, failed or out, perhaps with a reason behind a colon."""
    leader: str | int | None = None
    """Who plans, by name or by incarnation."""
    epoch: int = 0
    is_frozen: bool = False
    lease_left_ms: int = 0
    links_up: int = 0
    members: list[Member] = field(default_factory=list)
    shards: Shards = field(default_factory=Shards)
    sessions: int = 0
    proxies: int = 0
    peers: list[Peer] = field(default_factory=list)
    tunnels: int = 0
    """Links of others, one way and class each, that go over this node."""
    handovers: Handovers = field(default_factory=Handovers)
    refused_frames: int = 0
    deduplicated: int = 0
    etcd: EtcdFigures = field(default_factory=EtcdFigures)

    @property
    def stage_word(self) -> str:
        """The stage without its reason."""
        found = re.match(r"\s*([a-z]+)", self.stage.lower())
        return found[1] if found is not None else ""

    @property
    def stage_reason(self) -> str:
        """What it waits for, or why it is out; empty if nothing is said."""
        return self.stage.partition(":")[2].strip()

    @property
    def is_in(self) -> bool:
        """Whether the node is a member and may serve."""
        return self.incarnation > 0 and self.stage_word not in ("joining", "failed", "out")

    @property
    def leader_name(self) -> str | None:
        """The planner's name, if it is a member."""
        for one in self.members:
            if self.leader in (one.id, one.incarnation):
                return one.id
        return None

    def member(self, name: str) -> Member | None:
        """The member of this name."""
        return next((one for one in self.members if one.id == name), None)


def read(text: str) -> ClusterStatus | None:
    """The status from its JSON; None for a node that is alone. Raises ValueError."""
    try:
        return msgspec.json.decode(text, type=ClusterStatus | None)
    except msgspec.MsgspecError as error:
        raise ValueError(f"a status that does not read: {error}") from error
