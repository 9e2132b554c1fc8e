# SPDX-License-Identifier: Apache-2.0
"""A node's status in its cluster as metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from antiphon.cluster.status import ClusterStatus, Peer
from antiphon.metrics import names
from antiphon.metrics.export import Meters
from antiphon.metrics.names import Metric

Series = Mapping[tuple[str, ...], float]

_FRESH_S = 0.5
"""One scrape asks the core once."""


def measure(meters: Meters, view: Callable[[], ClusterStatus | None]) -> None:
    """Has the cluster's metrics read from the status that `view` gives."""
    kept = _Kept(view)
    for metric in names.CLUSTER:
        meters.read(metric, partial(kept.read, metric))


class _Kept:
    def __init__(self, view: Callable[[], ClusterStatus | None]) -> None:
        self._view = view
        self._series: Mapping[Metric, Series] = {}
        self._until = 0.0

    def read(self, metric: Metric) -> Series:
        """One metric; nothing for what the status does not tell."""
        now = time.monotonic()
        if now >= self._until:
            found = self._view()
            self._series = {} if found is None else series(found)
            self._until = now + _FRESH_S
        return self._series.get(metric, {})


def series(view: ClusterStatus) -> Mapping[Metric, Series]:
    """Every metric of `names.CLUSTER` with its values by labels."""
    shards, handed = view.shards, view.handovers
    found: dict[Metric, Series] = {
        names.CLUSTER_IN: {(): float(view.is_in)},
        names.CLUSTER_FROZEN: {(): float(view.is_frozen)},
        names.CLUSTER_PLANS: {(): float(view.is_in and view.leader_name == view.node)},
        names.CLUSTER_MEMBERS: {(): len(view.members)},
        names.CLUSTER_EPOCH: {(): view.epoch},
        names.CLUSTER_LEASE: {(): view.lease_left_ms / 1000},
        names.CLUSTER_SHARDS: {
            (state,): getattr(shards, state) for state in ("served", "coming", "going")
        },
        names.CLUSTER_OWNED: {(node,): count for node, count in shards.by_node.items()},
        names.CLUSTER_PROXIES: {(): view.proxies},
        names.CLUSTER_HANDOVERS: {
            (kind,): getattr(handed, kind) for kind in type(handed).__struct_fields__
        },
        names.CLUSTER_REFUSED: {(): view.refused_frames},
        names.CLUSTER_DEDUPLICATED: {(): view.deduplicated},
        names.RELAY_TUNNELS: {(): view.tunnels},
        names.ETCD_CALLS: {(): view.etcd.calls},
        names.ETCD_FAILURES: {(): view.etcd.failures},
        names.ETCD_AGE: {}
        if view.etcd.last_contact_ms is None
        else {(): view.etcd.last_contact_ms / 1000},
    }
    return {**found, **_relay(view.peers)}


def _relay(peers: list[Peer]) -> Mapping[Metric, Series]:
    """By peer and class; two lives of one peer, the older of which is just ending, are one."""
    by_link: dict[Metric, dict[tuple[str, ...], float]] = {
        metric: {} for metric in names.CLUSTER if metric.labels[:2] == ("peer", "class")
    }

    def add(metric: Metric, *labels: str, by: float) -> None:
        values = by_link[metric]
        values[labels] = values.get(labels, 0) + by

    for peer in peers:
        link = (peer.node, peer.traffic_class)
        up = by_link[names.RELAY_UP]
        up[link] = max(up.get(link, 0), float(peer.is_up))
        add(names.RELAY_DETOURS, *link, by=float(peer.via is not None))
        add(names.RELAY_RESETS, *link, by=peer.resets)
        add(names.RELAY_QUEUED, *link, by=peer.queued_bytes)
        add(names.RELAY_PENDING, *link, by=peer.pending)
        for way, traffic in (("sent", peer.sent), ("received", peer.received)):
            add(names.RELAY_FRAMES, *link, way, by=traffic.frames)
            add(names.RELAY_STANZAS, *link, way, by=traffic.stanzas)
            add(names.RELAY_BYTES, *link, way, by=traffic.bytes)
            add(names.RELAY_AGAIN, *link, way, by=traffic.again)
    return by_link
