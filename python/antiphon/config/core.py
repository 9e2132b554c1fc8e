# SPDX-License-Identifier: Apache-2.0
"""The document that the Rust core reads: only what it needs, everything decided."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from antiphon import __version__
from antiphon.config.check import parse_address
from antiphon.config.schema import HTTP_PATHS, LOCAL_PATHS, Config, Listener

CORE_MODULES = ("offline", "carbons", "blocking", "csi", "sm", "ping", "caps", "mam", "inbox")
"""Features whose work is done in Rust, by the names the core knows."""

_HOST_META = "/.well-known/host-meta"


class CoreHandler(Struct, frozen=True, kw_only=True):
    """An IQ that a Python handler wants; its place in the list is the handler's number."""

    target: Literal["host", "account"]
    is_set: bool
    ns: str
    name: str
    ordered: bool


class CoreHost(Struct, frozen=True, kw_only=True):
    """A served domain."""

    domain: str
    certificate: str | None
    key: str | None
    extra_features: str = ""
    """Self-contained XML put into the stream features after login."""
    registration: bool = False
    modules: dict[str, bool] | None = None
    """`modules` of the document where this domain differs; all of CORE_MODULES."""


class CoreListener(Struct, frozen=True, kw_only=True):
    """A socket; `paths` only for http."""

    kind: str
    address: str
    tls: str
    paths: tuple[str, ...] = ()


class CoreAuth(Struct, frozen=True, kw_only=True):
    """How clients prove who they are."""

    mechanisms: tuple[str, ...]
    scram_iterations: int
    client_ca: str | None
    allow_plaintext: bool


class CoreCassandra(Struct, frozen=True, kw_only=True):
    """`[storage.cassandra]` of the file, without what only migrations need."""

    contact_points: tuple[str, ...]
    keyspace: str
    local_datacenter: str | None
    user: str | None
    password: str | None
    ca: str | None
    certificate: str | None
    key: str | None
    request_timeout_ms: int
    connect_seconds: int
    read_seconds: int
    write_seconds: int


class CoreStorage(Struct, frozen=True, kw_only=True):
    """Which engine, and where it is; `cassandra` only if it is that one."""

    backend: str
    cassandra: CoreCassandra | None = None


class CoreComponent(Struct, frozen=True, kw_only=True):
    """An external component."""

    domain: str
    secret: str


class CoreArchive(Struct, frozen=True, kw_only=True):
    """`[archive]` of the file."""

    enabled: bool
    default: str
    inbox: bool
    retention_days: int
    messages_per_account: int
    bin_days: int
    page_max: int


class CoreEtcd(Struct, frozen=True, kw_only=True):
    """`[cluster.etcd]` of the file."""

    endpoints: tuple[str, ...]
    prefix: str
    ca: str | None
    certificate: str | None
    key: str | None
    user: str | None
    password: str | None


class CoreClusterTls(Struct, frozen=True, kw_only=True):
    """`[cluster.tls]` of the file."""

    ca: str
    certificate: str
    key: str


class CoreCluster(Struct, frozen=True, kw_only=True):
    """A node's place among others; its name is `node_name` of the document.

    `listen` is what is bound (`ip:port`), `relay` and `control` what the others are told
    (`host:port`).
    """

    name: str
    zone: str | None
    listen: str
    relay: str
    control: str
    version: str
    etcd: CoreEtcd
    tls: CoreClusterTls
    etcd_loss: str
    write_log: str | None


class CoreConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole document; `cluster` is left out for a node that is alone."""

    node_name: str
    data_dir: str
    log_level: int
    worker_threads: int
    hosts: tuple[CoreHost, ...]
    listeners: tuple[CoreListener, ...]
    auth: CoreAuth
    storage: CoreStorage
    components: tuple[CoreComponent, ...]
    limits: dict[str, int]
    handlers: tuple[CoreHandler, ...]
    modules: dict[str, bool]
    archive: CoreArchive
    resume_location: str | None = None
    cluster: CoreCluster | None = None


def core_config(
    config: Config,
    handlers: Sequence[CoreHandler],
    hosts: Sequence[CoreHost],
    modules: Mapping[str, bool],
    *,
    is_offline: bool = False,
) -> CoreConfig:
    """`config` as the core wants it; what the features say of themselves comes from the registry.

    `is_offline` leaves out every listener and certificate, and the cluster: for commands on the
    data of a node that is stopped.
    """
    listeners = () if is_offline else config.listeners()
    if is_offline:
        hosts = [msgspec.structs.replace(host, certificate=None, key=None) for host in hosts]
    return CoreConfig(
        node_name=config.node.name,
        data_dir=config.data_dir,
        log_level=logging.getLevelNamesMapping()[config.log.level.upper()],
        worker_threads=config.node.worker_threads,
        hosts=tuple(hosts),
        listeners=tuple(_listener(one) for one in listeners if one.kind != "cluster"),
        auth=CoreAuth(
            mechanisms=_mechanisms(config),
            scram_iterations=config.auth.scram_iterations,
            client_ca=None if is_offline else config.auth.client_ca,
            allow_plaintext=config.auth.allow_plaintext,
        ),
        storage=_storage(config),
        components=tuple(
            CoreComponent(domain=one.domain, secret=one.secret or "") for one in config.component
        ),
        limits=msgspec.structs.asdict(config.limits),
        handlers=tuple(handlers),
        modules=dict(modules),
        archive=CoreArchive(**msgspec.structs.asdict(config.archive)),
        resume_location=config.node.resume_location,
        cluster=None if is_offline else core_cluster(config),
    )


def render_core(
    config: Config,
    handlers: Sequence[CoreHandler],
    hosts: Sequence[CoreHost],
    modules: Mapping[str, bool],
    *,
    is_offline: bool = False,
) -> str:
    """`core_config` as JSON."""
    document = core_config(config, handlers, hosts, modules, is_offline=is_offline)
    return msgspec.json.encode(document).decode()


def served_paths(listener: Listener) -> tuple[str, ...]:
    """What an HTTP listener serves: as told, or all, the local ones on loopback only."""
    if listener.kind != "http":
        return ()
    if listener.paths is not None:
        return listener.paths
    address = parse_address(listener.address)
    is_local = address is not None and address[0].is_loopback
    return tuple(path for path in HTTP_PATHS if is_local or path not in LOCAL_PATHS)


def websocket_url(config: Config, domain: str) -> str | None:
    """Where host-meta sends the clients of a domain; None if no listener takes them over TLS.

    XEP-0156 #http allows `wss` only.
    """
    if config.http.websocket_url is not None:
        return config.http.websocket_url.replace("{domain}", domain)
    for listener in config.listeners():
        address = parse_address(listener.address)
        if listener.security == "direct" and "/ws" in served_paths(listener) and address:
            return f"wss://{domain}:{address[1]}/ws"
    return None


def core_cluster(config: Config) -> CoreCluster | None:
    """The part about other nodes; None for a node that is alone."""
    listener = config.cluster_listener()
    if not config.is_clustered or listener is None:
        return None
    given = config.cluster
    etcd = msgspec.structs.asdict(given.etcd)
    tls = msgspec.structs.asdict(given.tls)
    return CoreCluster(
        name=given.name,
        zone=config.node.zone or None,
        listen=listener.address,
        relay=advertised(config, int(listener.address.rpartition(":")[2])),
        control=advertised(config, given.control_port),
        version=__version__,
        etcd=CoreEtcd(**{name: etcd[name] for name in CoreEtcd.__struct_fields__}),
        tls=CoreClusterTls(**{name: tls[name] or "" for name in CoreClusterTls.__struct_fields__}),
        etcd_loss=given.etcd_loss,
        write_log=given.write_log,
    )


def advertised(config: Config, port: int) -> str:
    """`host:port` under which other nodes reach a port of this one."""
    listener = config.cluster_listener()
    address = parse_address(listener.address) if listener is not None else None
    host = config.cluster.advertise
    if host is None and address is not None and not address[0].is_unspecified:
        host = str(address[0])
    if host is None:
        host = socket.gethostname()
    is_bare_v6 = ":" in host
    return f"[{host}]:{port}" if is_bare_v6 else f"{host}:{port}"


def control_address(config: Config, *, is_local: bool = False) -> str:
    """`ip:port` of the control calls of this node; `is_local`: as a client beside it reaches it."""
    listener = config.cluster_listener()
    address = parse_address(listener.address) if listener is not None else None
    host = "127.0.0.1" if address is None else str(address[0])
    if is_local and address is not None and address[0].is_unspecified:
        host = "::1" if address[0].version == 6 else "127.0.0.1"
    port = config.cluster.control_port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _storage(config: Config) -> CoreStorage:
    if config.storage.backend != "cassandra":
        return CoreStorage(backend=config.storage.backend)
    options = msgspec.structs.asdict(config.storage.cassandra)
    wanted = {name: options[name] for name in CoreCassandra.__struct_fields__}
    return CoreStorage(backend="cassandra", cassandra=CoreCassandra(**wanted))


def _listener(listener: Listener) -> CoreListener:
    paths = served_paths(listener)
    if _HOST_META in paths:
        paths = (*paths, f"{_HOST_META}.json")
    return CoreListener(
        kind=listener.kind, address=listener.address, tls=listener.security, paths=paths
    )


def _mechanisms(config: Config) -> tuple[str, ...]:
    named = config.auth.mechanisms
    if config.auth.client_ca is not None and "EXTERNAL" not in named:
        return ("EXTERNAL", *named)
    return named
