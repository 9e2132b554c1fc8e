# SPDX-License-Identifier: Apache-2.0
"""Every metric once: name, type, labels, help.

Counters end in `_total` and never go back; units are in the names.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Metric(Struct, frozen=True, kw_only=True):
    """A row of the table."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


BUILD_INFO = Metric(
    name="antiphon_build_info",
    kind="gauge",
    help="Always 1; version and name of this node.",
    labels=("version", "node"),
)
START_TIME = Metric(
    name="antiphon_start_time_seconds", kind="gauge", help="When the node started, since 1970."
)
READY = Metric(
    name="antiphon_ready", kind="gauge", help="1 while the node takes clients, otherwise 0."
)
RELOADS = Metric(
    name="antiphon_reloads_total",
    kind="counter",
    help="Reloads of the configuration, by result (ok, refused).",
    labels=("result",),
)
LOG_RECORDS = Metric(
    name="antiphon_log_records_total",
    kind="counter",
    help="Log records of level warning and above, by level and event.",
    labels=("level", "event"),
)
HTTP_REQUESTS = Metric(
    name="antiphon_http_requests_total",
    kind="counter",
    help="HTTP requests answered by Python, by path and status.",
    labels=("path", "status"),
)
ADMIN_COMMANDS = Metric(
    name="antiphon_admin_commands_total",
    kind="counter",
    help="Commands at the admin socket, by command and result (ok or the condition).",
    labels=("command", "result"),
)
CERTIFICATE_END = Metric(
    name="antiphon_certificate_end_seconds",
    kind="gauge",
    help="When the certificate of a domain ends, since 1970.",
    labels=("domain",),
)

BRIDGE = {
    field: Metric(name=f"antiphon_bridge_{field}_total", kind="counter", help=text)
    for field, text in (
        ("events", "Events drained from the core."),
        ("iqs", "IQs handed to Python handlers."),
        ("errors", "IQs that a handler answered with an error."),
        ("faults", "Handlers that failed by a fault of the server."),
        ("deadlines", "Handlers that were ended at their deadline."),
        ("rejected", "Requests refused because too many were under way."),
        ("http", "HTTP requests handed to Python."),
        ("calls", "Calls of Python to the core."),
        ("batches", "Batches of actions given to the core."),
        ("bad_actions", "Batches that the core refused."),
    )
}
"""The counts of the bridge, by their fields."""

PYTHON = (
    BUILD_INFO,
    START_TIME,
    READY,
    RELOADS,
    LOG_RECORDS,
    HTTP_REQUESTS,
    ADMIN_COMMANDS,
    CERTIFICATE_END,
    *BRIDGE.values(),
)
"""What the Python half counts."""

CORE = (
    Metric(
        name="antiphon_stanzas_received_total",
        kind="counter",
        help="Stanzas that clients sent.",
        labels=("kind",),
    ),
    Metric(
        name="antiphon_stanzas_delivered_total",
        kind="counter",
        help="Stanzas put on clients' queues.",
        labels=("kind",),
    ),
    Metric(
        name="antiphon_connections_accepted_total",
        kind="counter",
        help="Connections accepted.",
    ),
    Metric(
        name="antiphon_connections_refused_total",
        kind="counter",
        help="Connections refused by a limit.",
    ),
    Metric(
        name="antiphon_tls_failures_total",
        kind="counter",
        help="TLS handshakes that failed.",
    ),
    Metric(
        name="antiphon_connection_panics_total",
        kind="counter",
        help="Connections ended by a fault of the server.",
    ),
    Metric(
        name="antiphon_clients_throttled_total",
        kind="counter",
        help="Times a client was slowed down by its rate limit.",
    ),
    Metric(
        name="antiphon_queue_overflows_total",
        kind="counter",
        help="Sessions ended because their client did not read.",
    ),
    Metric(
        name="antiphon_requests_refused_total",
        kind="counter",
        help="Requests refused because Python was busy.",
    ),
    Metric(
        name="antiphon_store_errors_total",
        kind="counter",
        help="Operations that the store refused or failed.",
    ),
    Metric(
        name="antiphon_auth_failures_total",
        kind="counter",
        help="Failed logins.",
    ),
    Metric(
        name="antiphon_sessions_resumed_total",
        kind="counter",
        help="Sessions resumed.",
    ),
    Metric(
        name="antiphon_messages_archived_total",
        kind="counter",
        help="Messages handed to the archive, once for each owner.",
    ),
    Metric(
        name="antiphon_archive_pages_total",
        kind="counter",
        help="Pages of archives given to clients.",
    ),
    Metric(
        name="antiphon_inbox_reads_total",
        kind="counter",
        help="Lists of conversations given to clients.",
    ),
    Metric(
        name="antiphon_deliveries_gated_total",
        kind="counter",
        help="Stanzas that waited for a commit before their delivery.",
    ),
    Metric(
        name="antiphon_deliveries_passed_total",
        kind="counter",
        help="Stanzas delivered ahead of their commit because the store was slow.",
    ),
    Metric(
        name="antiphon_socket_sent_bytes_total",
        kind="counter",
        help="Sent on sockets.",
    ),
    Metric(
        name="antiphon_socket_received_bytes_total",
        kind="counter",
        help="Received on sockets.",
    ),
    Metric(
        name="antiphon_logins_total",
        kind="counter",
        help="Successful logins.",
        labels=("mechanism",),
    ),
    Metric(
        name="antiphon_stream_errors_total",
        kind="counter",
        help="Streams ended by the server.",
        labels=("condition",),
    ),
    Metric(
        name="antiphon_crossings_total",
        kind="counter",
        help="Events that crossed into Python.",
    ),
    Metric(
        name="antiphon_login_steps_delayed_total",
        kind="counter",
        help="Steps of logins that had to wait for their turn.",
    ),
    Metric(
        name="antiphon_logs_lost_total",
        kind="counter",
        help="Log records dropped because Python was behind.",
    ),
    Metric(
        name="antiphon_sessions",
        kind="gauge",
        help="Bound sessions.",
    ),
    Metric(
        name="antiphon_connections",
        kind="gauge",
        help="Open connections.",
    ),
    Metric(
        name="antiphon_connections_before_login",
        kind="gauge",
        help="Open connections that have not logged in.",
    ),
    Metric(
        name="antiphon_login_steps_in_hand",
        kind="gauge",
        help="Steps of logins in hand.",
    ),
    Metric(
        name="antiphon_login_steps_in_hand_max",
        kind="gauge",
        help="The most steps of logins that were in hand at once.",
    ),
    Metric(
        name="antiphon_logins_waiting",
        kind="gauge",
        help="Connections that wait for their turn to log in.",
    ),
    Metric(
        name="antiphon_entities",
        kind="gauge",
        help="Entities in memory.",
    ),
    Metric(
        name="antiphon_bridge_queue",
        kind="gauge",
        help="Events that wait for Python.",
    ),
    Metric(
        name="antiphon_store_writes_waiting",
        kind="gauge",
        help="Writes that wait for the store.",
    ),
    Metric(
        name="antiphon_unsaved_bytes",
        kind="gauge",
        help="Handed to the store and not yet saved.",
    ),
    Metric(
        name="antiphon_search_lag_seconds",
        kind="gauge",
        help="How long the oldest message waits to be found by a search.",
    ),
)
"""What the Rust half counts; a test compares these rows with what a node shows."""

CLUSTER = (
    CLUSTER_IN := Metric(
        name="antiphon_cluster_in",
        kind="gauge",
        help="1 while the node is a member of its cluster, otherwise 0.",
    ),
    CLUSTER_FROZEN := Metric(
        name="antiphon_cluster_frozen",
        kind="gauge",
        help="1 while the node goes by the word of the others, since etcd is gone.",
    ),
    CLUSTER_PLANS := Metric(
        name="antiphon_cluster_plans",
        kind="gauge",
        help="1 at the node that plans; the sum over all nodes is 1.",
    ),
    CLUSTER_MEMBERS := Metric(
        name="antiphon_cluster_members", kind="gauge", help="Members that the node knows."
    ),
    CLUSTER_EPOCH := Metric(
        name="antiphon_cluster_map_epoch", kind="gauge", help="Number of the map in force."
    ),
    CLUSTER_LEASE := Metric(
        name="antiphon_cluster_lease_left_seconds",
        kind="gauge",
        help="What is left of the node's lease; without one it stops serving.",
    ),
    CLUSTER_SHARDS := Metric(
        name="antiphon_cluster_shards",
        kind="gauge",
        help="Shards of the node by state: served, coming (their users wait), going.",
        labels=("state",),
    ),
    CLUSTER_OWNED := Metric(
        name="antiphon_cluster_shards_owned",
        kind="gauge",
        help="Shards of each node by the map that this node knows.",
        labels=("owner",),
    ),
    CLUSTER_PROXIES := Metric(
        name="antiphon_cluster_proxies",
        kind="gauge",
        help="Sessions that live here and have their sockets on other nodes.",
    ),
    CLUSTER_HANDOVERS := Metric(
        name="antiphon_cluster_handovers_total",
        kind="counter",
        help="Shards released, taken_clean, taken_unclean (their owner died), dropped.",
        labels=("kind",),
    ),
    CLUSTER_REFUSED := Metric(
        name="antiphon_cluster_refused_frames_total",
        kind="counter",
        help="Frames from other nodes that were stale, forged or broken.",
    ),
    CLUSTER_DEDUPLICATED := Metric(
        name="antiphon_cluster_deduplicated_total",
        kind="counter",
        help="Messages that came again and were known.",
    ),
    RELAY_UP := Metric(
        name="antiphon_relay_up",
        kind="gauge",
        help="1 while the link to a peer stands.",
        labels=("peer", "class"),
    ),
    RELAY_DETOURS := Metric(
        name="antiphon_relay_detours",
        kind="gauge",
        help="1 while the link to a peer goes over a third node, since the direct way is cut.",
        labels=("peer", "class"),
    ),
    RELAY_TUNNELS := Metric(
        name="antiphon_relay_tunnels",
        kind="gauge",
        help="Links of other nodes that go over this one.",
    ),
    RELAY_RESETS := Metric(
        name="antiphon_relay_resets_total",
        kind="counter",
        help="Times a link to a peer broke.",
        labels=("peer", "class"),
    ),
    RELAY_QUEUED := Metric(
        name="antiphon_relay_queued_bytes",
        kind="gauge",
        help="What waits for the socket to a peer.",
        labels=("peer", "class"),
    ),
    RELAY_PENDING := Metric(
        name="antiphon_relay_pending",
        kind="gauge",
        help="Sent to a peer and not done there.",
        labels=("peer", "class"),
    ),
    RELAY_FRAMES := Metric(
        name="antiphon_relay_frames_total",
        kind="counter",
        help="Batches on the links with a peer, by way (sent, received).",
        labels=("peer", "class", "way"),
    ),
    RELAY_STANZAS := Metric(
        name="antiphon_relay_stanzas_total",
        kind="counter",
        help="What these batches held.",
        labels=("peer", "class", "way"),
    ),
    RELAY_BYTES := Metric(
        name="antiphon_relay_bytes_total",
        kind="counter",
        help="Their bytes, before TLS.",
        labels=("peer", "class", "way"),
    ),
    RELAY_AGAIN := Metric(
        name="antiphon_relay_again_total",
        kind="counter",
        help="Of these sent again after a break, or received again and dropped.",
        labels=("peer", "class", "way"),
    ),
    ETCD_CALLS := Metric(
        name="antiphon_etcd_calls_total", kind="counter", help="Calls of the node to etcd."
    ),
    ETCD_FAILURES := Metric(
        name="antiphon_etcd_failures_total", kind="counter", help="Of these without a good answer."
    ),
    ETCD_AGE := Metric(
        name="antiphon_etcd_contact_age_seconds",
        kind="gauge",
        help="Since etcd last answered; rises while it is away.",
    ),
)
"""What a node of a cluster tells besides, read from the core's status."""

ALL = (*CORE, *PYTHON, *CLUSTER)
"""The whole table."""
