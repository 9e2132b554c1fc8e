# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a cluster, in plain words, and what to do; pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct, field

from antiphon.cluster.status import ClusterStatus, EtcdMember, Member, Peer

LOW_LEASE_MS = 4_000
"""A healthy node renews its lease of 10 s every 2 s."""
OLD_CONTACT_MS = 5_000
LONG_QUEUE_BYTES = 8 * 1024 * 1024


class Finding(Struct, frozen=True, kw_only=True):
    """error: users are hit or will be; warning: look at it; note: it ends by itself."""

    level: Literal["error", "warning", "note"]
    text: str
    advice: str = ""


class View(Struct, frozen=True, kw_only=True):
    """A cluster as one look found it.

    `nodes` have answered, by name; `silent` have not, with the reason. `members` are those that the
    cluster lists. `etcd_fault`: why etcd could not be read.
    """

    nodes: dict[str, ClusterStatus]
    silent: dict[str, str] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    etcd: list[EtcdMember] = field(default_factory=list)
    etcd_fault: str | None = None

    def member(self, name: str) -> Member | None:
        """The member of this name."""
        return next((one for one in self.members if one.id == name), None)

    @property
    def latest(self) -> ClusterStatus | None:
        """The one who knows the newest map."""
        return max(self.nodes.values(), key=lambda one: one.epoch, default=None)


def findings(view: View) -> list[Finding]:
    """Everything that an operator should know, the worst first."""
    found = [
        *_etcd(view),
        *_silent(view),
        *_stages(view),
        *_shards(view),
        *_leases(view),
        *_links(view),
        *_members(view),
    ]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda one: order.index(one.level))


def _etcd(view: View) -> Iterator[Finding]:
    down = [one for one in view.etcd if one.fault is not None]
    up = [one for one in view.etcd if one.fault is None]
    named = "; ".join(f"{one.endpoint}: {one.fault}" for one in down)
    keep_on = (
        "users notice nothing while no node ends; stop upgrades and evictions, and bring a "
        "majority of etcd back with its own data"
    )
    if view.etcd and len(up) * 2 <= len(view.etcd):
        yield Finding(level="error", text=f"etcd is away ({named})", advice=keep_on)
    elif view.etcd and not any(one.has_leader for one in up):
        yield Finding(level="error", text="etcd has no leader", advice=keep_on)
    elif down:
        text = f"{len(down)} of {len(view.etcd)} members of etcd do not answer ({named})"
        yield Finding(level="warning", text=text, advice="bring them back before another one goes")
    elif view.etcd_fault is not None:
        yield Finding(level="error", text=f"etcd cannot be read: {view.etcd_fault}", advice=keep_on)
    for one in up:
        if one.is_old:
            text = f"etcd {one.version} at {one.endpoint} is older than 3.5"
            yield Finding(level="warning", text=text, advice="upgrade it")
    frozen = sorted(name for name, one in view.nodes.items() if one.is_frozen)
    if frozen:
        text = f"{_and(frozen)} went on without etcd, by the word of the others"
        yield Finding(level="warning", text=text, advice="nobody joins, leaves or takes over now")


def _silent(view: View) -> Iterator[Finding]:
    for name, reason in sorted(view.silent.items()):
        yield Finding(
            level="error",
            text=f"{name} does not answer control calls: {reason}",
            advice="see its log; if its process is gone the others take over within seconds, else "
            "look at cluster.control_port, the network policy and its certificate",
        )


def _stages(view: View) -> Iterator[Finding]:
    for name, one in sorted(view.nodes.items()):
        reason = f": {one.stage_reason}" if one.stage_reason else ""
        if one.stage_word == "joining":
            text = f"{name} is not in yet{reason}"
            yield Finding(level="warning", text=text, advice="its log says what it waits for")
        elif not one.is_in:
            yield Finding(
                level="error",
                text=f"{name} is out of the cluster{reason}",
                advice="it serves nobody; once the reason is gone it joins again, or restart it",
            )


def _shards(view: View) -> Iterator[Finding]:
    latest = view.latest
    if latest is None:
        return
    owned = sum(latest.shards.by_node.values())
    if owned < latest.shards.all:
        count = latest.shards.all - owned
        yield Finding(
            level="error",
            text=f"{count} shards have no owner: their users wait",
            advice="the planner gives them out as soon as a node is up; see the nodes above",
        )
    if latest.leader is None and any(one.is_in for one in view.nodes.values()):
        yield Finding(
            level="error",
            text="nobody plans, so no shard can move",
            advice="a node takes that on within a lease (10 s); if not, etcd is away",
        )
    for name, one in sorted(view.nodes.items()):
        if one.shards.coming:
            text = f"{one.shards.coming} shards are coming to {name}: their users wait"
            yield Finding(
                level="warning", text=text, advice="that takes seconds; if it stays, see links"
            )
        if one.is_in and one.epoch < latest.epoch:
            text = f"{name} goes by map {one.epoch}, the newest is {latest.epoch}"
            yield Finding(
                level="warning", text=text, advice="if it stays, its etcd is slow or away"
            )


def _leases(view: View) -> Iterator[Finding]:
    for name, one in sorted(view.nodes.items()):
        if not one.is_in or one.is_frozen:
            continue
        if one.lease_left_ms < LOW_LEASE_MS:
            yield Finding(
                level="error",
                text=f"the lease of {name} ends in {one.lease_left_ms / 1000:.1f} s",
                advice="then it stops serving: is etcd slow, or the machine overloaded or paused?",
            )
        age_ms = one.etcd.last_contact_ms
        if age_ms is not None and age_ms > OLD_CONTACT_MS:
            text = f"{name} heard nothing of etcd for {age_ms / 1000:.0f} s"
            yield Finding(
                level="warning", text=text, advice="see its way to cluster.etcd.endpoints"
            )


def _links(view: View) -> Iterator[Finding]:
    listed = {one.id for one in view.members}
    for name, one in sorted(view.nodes.items()):
        current = [peer for peer in one.peers if peer.node in listed]
        for peer in current:
            yield from _link(name, peer)
    refused = {name: one.refused_frames for name, one in view.nodes.items() if one.refused_frames}
    if refused:
        text = ", ".join(f"{name} {count}" for name, count in sorted(refused.items()))
        yield Finding(
            level="note",
            text=f"frames that were refused since the start: {text}",
            advice="some when nodes come and go; if they rise steadily, see the logs",
        )


def _link(name: str, peer: Peer) -> Iterator[Finding]:
    way = f"{name} to {peer.node} ({peer.traffic_class})"
    if not peer.is_up:
        yield Finding(
            level="error",
            text=f"the link from {name} to {peer.node} ({peer.traffic_class}) is down",
            advice=f"the log of {name} says why: network, certificates, clocks",
        )
    elif peer.via is not None:
        yield Finding(
            level="warning",
            text=f"the link from {way} goes over {peer.via}",
            advice=f"{name} cannot reach {peer.node} at its relay port: see the network between",
        )
    elif peer.queued_bytes > LONG_QUEUE_BYTES:
        size = peer.queued_bytes / 1024 / 1024
        yield Finding(
            level="warning",
            text=f"{size:.0f} MiB wait from {way}",
            advice=f"{peer.node} is slow, or the network between them",
        )


def _members(view: View) -> Iterator[Finding]:
    for one in view.members:
        if one.state == "draining":
            status = view.nodes.get(one.id)
            left = status.shards.served + status.shards.going if status is not None else None
            text = f"{one.id} drains" + (f", {left} shards left" if left is not None else "")
            yield Finding(
                level="note", text=text, advice="stop or restart it when it holds nothing"
            )
    up = [one for one in view.members if one.state == "up"]
    if len(view.members) and len(up) < 2:
        yield Finding(
            level="warning",
            text=f"{len(up)} node is up" if up else "no node is up",
            advice="nothing can take over; start another",
        )
    versions = sorted({one.version for one in view.members})
    if len(versions) > 1:
        text = f"versions {_and(versions)} run beside each other"
        yield Finding(level="note", text=text, advice="finish the upgrade within days")
    zoned = [one for one in view.members if one.zone is not None]
    if zoned and len(zoned) < len(view.members):
        without = _and(sorted(one.id for one in view.members if one.zone is None))
        text = f"{without} stand in no zone, others do"
        yield Finding(level="warning", text=text, advice="set node.zone in all or in none")


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
