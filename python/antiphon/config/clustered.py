# SPDX-License-Identifier: Apache-2.0
"""The sections about other nodes: etcd, and the links between nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from antiphon.config.section import PATH, SECRET, Section

RELAY_PORT = 5270
"""Where nodes speak to each other unless a listener says otherwise."""


class Etcd(Section, frozen=True, kw_only=True):
    """The etcd (3.5 or later) that says who is there and who owns what."""

    endpoints: Annotated[
        tuple[str, ...],
        Meta(
            description="Its members, host:port or https://host:port; without a scheme TLS is "
            "used where ca is set."
        ),
    ] = ("127.0.0.1:2379",)
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$",
            max_length=100,
            description="Before every key; a user of etcd needs to read and write below it.",
            extra={"rule": "names of letters, digits, . - and _ between slashes, like /antiphon"},
        ),
    ] = "/antiphon"
    ca: Annotated[
        str | None, Meta(description="PEM file of its authority; turns TLS on.", extra=PATH)
    ] = None
    certificate: Annotated[str | None, Meta(description="PEM file for us.", extra=PATH)] = None
    key: Annotated[str | None, Meta(description="PEM file of its key.", extra=PATH)] = None
    user: Annotated[str | None, Meta(description="Where etcd asks for one.")] = None
    password: Annotated[str | None, Meta(description="Of this user.", extra=SECRET)] = None
    password_file: Annotated[str | None, Meta(description="File with it.", extra=PATH)] = None


class ClusterTls(Section, frozen=True, kw_only=True):
    """Between nodes, both sides; the certificate names the node as a DNS name."""

    ca: Annotated[
        str | None,
        Meta(description="PEM file of their authority, which certifies nodes only.", extra=PATH),
    ] = None
    certificate: Annotated[
        str | None,
        Meta(description="PEM file; node.name is a DNS name of its subjectAltName.", extra=PATH),
    ] = None
    key: Annotated[str | None, Meta(description="PEM file of its key.", extra=PATH)] = None


class Cluster(Section, frozen=True, kw_only=True):
    """Other nodes."""

    backend: Annotated[
        Literal["local", "etcd"],
        Meta(description="local: this node alone. etcd: many nodes, on Cassandra."),
    ] = "local"
    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._-]{1,63}$",
            description="The same in all nodes; those of another cluster are refused.",
            extra={"rule": "letters, digits, . - and _, at most 63"},
        ),
    ] = "antiphon"
    advertise: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:%-]{1,255}$")] | None,
        Meta(
            description="Host name or IP address under which other nodes reach this one. Left out: "
            "the address of the listener of kind cluster, or the host name if that is every "
            "address.",
            extra={"rule": "a host name or an IP address, without a port"},
        ),
    ] = None
    control_port: Annotated[
        int,
        Meta(
            ge=1,
            le=65_535,
            description="Port of control calls (`antiphon cluster`), on the address of the "
            "listener of kind cluster.",
        ),
    ] = 5271
    etcd_loss: Annotated[
        Literal["freeze", "fence"],
        Meta(
            description="When etcd is gone. freeze: nodes serve on while most of them say the same "
            "of it. fence: a node stops serving with its lease, which leaves no case in which two "
            "halves of a cut network serve."
        ),
    ] = "freeze"
    drain_seconds: Annotated[
        int,
        Meta(
            ge=0,
            le=3600,
            description="How long a stopping node may take to hand over its shards and sessions.",
        ),
    ] = 30
    write_log: Annotated[
        str | None,
        Meta(
            description="For tests of the fencing: a file that is told, a line of JSON each, whose "
            "rows this node sends to Cassandra, and at which epoch it got their shard. It grows "
            "for ever.",
            extra=PATH,
        ),
    ] = None
    etcd: Etcd = field(default_factory=Etcd)
    tls: ClusterTls = field(default_factory=ClusterTls)
