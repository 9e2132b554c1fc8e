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

PYTHON = (
    BUILD_INFO,
    START_TIME,
    READY,
    RELOADS,
    LOG_RECORDS,
    HTTP_REQUESTS,
    ADMIN_COMMANDS,
    CERTIFICATE_END,
)
"""What the Python half counts."""

CORE: tuple[Metric, ...] = ()
"""What the Rust half counts; a test compares these rows with what a node shows."""

ALL = (*CORE, *PYTHON)
"""The whole table."""
