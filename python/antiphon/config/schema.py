# SPDX-License-Identifier: Apache-2.0
"""Every section of `antiphon.toml`, with the description, unit and default of every key.

The features' own options are structs in the features' files; `Modules.options` holds them by name.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct, field

from antiphon._core import Jid
from antiphon.config.clustered import RELAY_PORT, Cluster
from antiphon.config.section import PATH, SECRET, Section
from antiphon.config.stored import Archive, Storage

T = TypeVar("T", bound=Struct)

MECHANISMS = (
    "SCRAM-SHA-512-PLUS",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-512",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "PLAIN",
)
"""What is offered when `auth.mechanisms` is left out: a bound channel first, then by hash."""

HTTP_PATHS = ("/ws", "/.well-known/host-meta", "/livez", "/readyz", "/metrics")
"""The paths an HTTP listener can serve."""
LOCAL_PATHS = ("/metrics",)
"""Of these, the ones that only a listener on a loopback address serves unless told otherwise."""


def default_name() -> str:
    """The host name without its domain, made to fit the rule for node names."""
    name = "".join(c for c in socket.gethostname().split(".")[0] if c.isalnum() or c in "_-")
    return name.strip("-_")[:63] or "node"


class Node(Section, frozen=True, kw_only=True):
    """This process."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$",
            description="Unique in the cluster; left out: the host name.",
            extra={"rule": "letters, digits, - and _, at most 63"},
        ),
    ] = field(default_factory=default_name)
    zone: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,63}$")] | None,
        Meta(
            description="What fails together with this node; a shard and its stand-in are kept in "
            "different zones. Empty: none.",
            extra={"rule": "letters, digits, . - and _, at most 63"},
        ),
    ] = None
    resume_location: Annotated[
        Annotated[
            str, Meta(pattern=r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$")
        ]
        | None,
        Meta(
            description="Where clients are told to come first to resume a session of this node "
            "(XEP-0198): an address that leads to this node alone. Left out: nothing is said, and "
            "they resume on whatever node they reach.",
            extra={"rule": "a host name or an IP address (IPv6 in [ ]), with or without a port"},
        ),
    ] = None
    worker_threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads of the core; 0: one for each processor.")
    ] = 0
    drain_seconds: Annotated[
        int,
        Meta(ge=0, le=3600, description="How long a stop waits for what is under way."),
    ] = 10


class Tls(Section, frozen=True, kw_only=True):
    """The certificate that clients see."""

    certificate: Annotated[
        str | None,
        Meta(
            description="PEM file, chain included. Left out: self-signed, made in data_dir.",
            extra=PATH,
        ),
    ] = None
    key: Annotated[str | None, Meta(description="PEM file of its private key.", extra=PATH)] = None


class Modules(Section, frozen=True, kw_only=True):
    """Which features run, and their options, each under the feature's own name."""

    disable: Annotated[
        tuple[str, ...], Meta(description='Names of features that do not run, e.g. ["carbons"].')
    ] = ()
    options: Mapping[str, Struct] = field(default_factory=dict)
    """Not a key of the file: the options of every feature that has some, by its name."""


class Domain(Section, frozen=True, kw_only=True):
    """Where one domain differs from the rest."""

    certificate: Annotated[str | None, Meta(description="As in [tls].", extra=PATH)] = None
    key: Annotated[str | None, Meta(description="As in [tls].", extra=PATH)] = None
    admins: Annotated[
        tuple[str, ...] | None,
        Meta(description="Administrators of this domain instead of the global ones."),
    ] = None
    modules: Modules | None = None


class Listener(Section, frozen=True, kw_only=True):
    """A socket that is listened on; any number of these tables."""

    kind: Annotated[
        Literal["c2s", "s2s", "http", "cluster", "component"],
        Meta(
            description="What is spoken; cluster is for the other nodes, exactly one in a cluster. "
            "s2s comes with a later version."
        ),
    ]
    address: Annotated[
        str,
        Meta(description="IP address and port: 127.0.0.1:5222, [::]:5222; port 0: any free one."),
    ]
    tls: Annotated[
        Literal["starttls", "direct", "none"] | None,
        Meta(description="Left out: starttls for c2s, none for others. Nodes always use TLS."),
    ] = None
    paths: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="Only http: what is served here. Left out: all, /metrics only on loopback."
        ),
    ] = None

    @property
    def security(self) -> Literal["starttls", "direct", "none"]:
        """`tls` with its default."""
        return self.tls or ("starttls" if self.kind == "c2s" else "none")


class Auth(Section, frozen=True, kw_only=True):
    """How clients prove who they are."""

    mechanisms: Annotated[
        tuple[str, ...],
        Meta(
            description="SASL mechanisms. ANONYMOUS only runs when named here; PLAIN only under "
            "TLS; EXTERNAL comes with client_ca."
        ),
    ] = MECHANISMS
    scram_iterations: Annotated[
        int,
        Meta(ge=4096, le=1_000_000, description="For keys stored from now on (RFC 7677 §4)."),
    ] = 10_000
    client_ca: Annotated[
        str | None,
        Meta(
            description="PEM file of the authorities for client certificates; turns EXTERNAL on.",
            extra=PATH,
        ),
    ] = None
    allow_plaintext: Annotated[
        bool,
        Meta(description="true lets PLAIN and SCRAM run without TLS (loopback, benchmarks)."),
    ] = False


class Component(Section, frozen=True, kw_only=True):
    """An external component (XEP-0114); any number of these tables."""

    domain: Annotated[str, Meta(description="The domain it answers for.")]
    secret: Annotated[str | None, Meta(description="What it proves to know; or:", extra=SECRET)] = (
        None
    )
    secret_file: Annotated[str | None, Meta(description="File with it.", extra=PATH)] = None


class Http(Section, frozen=True, kw_only=True):
    """What the HTTP listeners tell."""

    websocket_url: Annotated[
        Annotated[str, Meta(pattern=r"^wss://")] | None,
        Meta(
            extra={"rule": "an address that begins with wss://"},
            description="What host-meta (XEP-0156) announces, {domain} being the domain asked for; "
            "set it behind a proxy. Left out: from the first http listener with direct TLS.",
        ),
    ] = None
    request_seconds: Annotated[
        int, Meta(ge=1, le=600, description="Longest time for the answer to one request.")
    ] = 30


class Log(Section, frozen=True, kw_only=True):
    """What is written to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is shown.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "text"],
        Meta(description="auto: text on a terminal, otherwise one JSON object a line."),
    ] = "auto"
    jids: Annotated[
        bool, Meta(description="true shows addresses of users above debug level too.")
    ] = False


class Limits(Section, frozen=True, kw_only=True):
    """Every limit on what grows, its unit in its name; 0: no limit."""

    connections_per_address: Annotated[
        int,
        Meta(
            ge=0,
            description="Open connections from one IP address, a /64 of IPv6 being one, and ten "
            "times as many new ones a minute, 600 at least; more are closed.",
        ),
    ] = 200
    connections_before_login: Annotated[
        int,
        Meta(
            ge=0,
            description="Open connections that have not logged in, from everywhere; "
            "more get resource-constraint.",
        ),
    ] = 20_000
    logins_per_worker: Annotated[
        int,
        Meta(
            ge=0,
            description="Steps of logins in hand for each worker thread; more wait their turn, "
            "the oldest connection first, behind the traffic of sessions.",
        ),
    ] = 1
    stanza_bytes: Annotated[
        int, Meta(ge=0, description="A stanza after login; larger: policy-violation.")
    ] = 262_144
    stanza_bytes_before_login: Annotated[
        int, Meta(ge=0, description="A first-level element before login (RFC 6120 §13.12).")
    ] = 10_000
    stanza_depth: Annotated[int, Meta(ge=0, description="Levels of elements in a stanza.")] = 64
    stanza_elements: Annotated[int, Meta(ge=0, description="Elements in a stanza.")] = 25_000
    stanza_attributes: Annotated[
        int, Meta(ge=0, description="Attributes of one element, namespace declarations included.")
    ] = 100
    login_seconds: Annotated[
        int, Meta(ge=0, description="From the connection to a bound resource.")
    ] = 30
    idle_seconds: Annotated[
        int,
        Meta(ge=0, description="Silence after which a client is asked for a sign of life."),
    ] = 600
    auth_attempts: Annotated[
        int, Meta(ge=0, description="Failed logins on one stream; then policy-violation.")
    ] = 5
    auth_failures_per_minute: Annotated[
        int, Meta(ge=0, description="Failed logins from one IP address.")
    ] = 60
    sessions_per_user: Annotated[int, Meta(ge=0, description="Bound resources of a user.")] = 20
    roster_items: Annotated[int, Meta(ge=0, description="Contacts of a user.")] = 2_000
    blocked_items: Annotated[int, Meta(ge=0, description="Entries of a block list.")] = 1_000
    offline_messages: Annotated[
        int, Meta(ge=0, description="Messages kept for a user who is not online.")
    ] = 1_000
    sm_queue_stanzas: Annotated[
        int, Meta(ge=0, description="Stanzas sent and not acknowledged; more end the session.")
    ] = 1_000
    sm_resume_seconds: Annotated[
        int,
        Meta(ge=0, description="How long a lost session can be resumed; 0: not at all (XEP-0198)."),
    ] = 600
    stanzas_per_second: Annotated[
        int, Meta(ge=0, description="From one client; beyond it the socket is read more slowly.")
    ] = 200
    burst_stanzas: Annotated[
        int, Meta(ge=0, description="What a client may send at once beyond its rate.")
    ] = 1_000
    bytes_per_second: Annotated[int, Meta(ge=0, description="From one client, likewise.")] = 262_144
    burst_bytes: Annotated[
        int, Meta(ge=0, description="What a client may send at once beyond its rate.")
    ] = 1_048_576
    outgoing_bytes: Annotated[
        int, Meta(ge=0, description="Written for a client that does not read; more closes it.")
    ] = 4_194_304
    registrations_per_hour: Annotated[
        int, Meta(ge=0, description="Accounts made from one IP address (XEP-0077).")
    ] = 10
    http_body_bytes: Annotated[int, Meta(ge=0, description="Body of an HTTP request.")] = 262_144


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    domains: Annotated[
        tuple[str, ...], Meta(min_length=1, description="The domains this node serves.")
    ] = ("localhost",)
    admins: Annotated[
        tuple[str, ...],
        Meta(description="Bare JIDs of the administrators of these domains (XEP-0133)."),
    ] = ()
    data_dir: Annotated[
        str, Meta(min_length=1, description="Where everything is kept.", extra=PATH)
    ] = "data"
    node: Node = field(default_factory=Node)
    tls: Tls = field(default_factory=Tls)
    domain: dict[str, Domain] = field(default_factory=dict)
    listener: tuple[Listener, ...] = ()
    auth: Auth = field(default_factory=Auth)
    storage: Storage = field(default_factory=Storage)
    cluster: Cluster = field(default_factory=Cluster)
    archive: Archive = field(default_factory=Archive)
    component: tuple[Component, ...] = ()
    http: Http = field(default_factory=Http)
    log: Log = field(default_factory=Log)
    modules: Modules = field(default_factory=Modules)
    limits: Limits = field(default_factory=Limits)

    @property
    def is_local(self) -> bool:
        """Only `localhost` is served: without listeners of its own the node stays on loopback."""
        return self.domains == ("localhost",)

    def listeners(self) -> tuple[Listener, ...]:
        """The listeners of the file, or the default ones."""
        return self.listener or default_listeners(
            is_local=self.is_local,
            has_components=bool(self.component),
            is_clustered=self.is_clustered,
        )

    @property
    def is_clustered(self) -> bool:
        """Whether there may be other nodes."""
        return self.cluster.backend == "etcd"

    def cluster_listener(self) -> Listener | None:
        """The one that other nodes connect to."""
        return next((one for one in self.listeners() if one.kind == "cluster"), None)

    def host(self, domain: str) -> HostSettings:
        """What holds for one of `domains`. Raises KeyError for another."""
        if domain not in self.domains:
            raise KeyError(domain)
        own = self.domain.get(domain, Domain())
        has_own_certificate = own.certificate is not None
        admins = self.admins if own.admins is None else own.admins
        return HostSettings(
            domain=domain,
            certificate=own.certificate if has_own_certificate else self.tls.certificate,
            key=own.key if has_own_certificate else self.tls.key,
            admins=frozenset(Jid(admin) for admin in admins),
            modules=own.modules or self.modules,
            archive=self.archive,
        )

    def hosts(self) -> tuple[HostSettings, ...]:
        """`host` of every domain, in the order of `domains`."""
        return tuple(self.host(domain) for domain in self.domains)


class HostSettings(Struct, frozen=True, kw_only=True):
    """What holds for one served domain, its overrides applied."""

    domain: str
    certificate: str | None
    key: str | None
    admins: frozenset[Jid]
    modules: Modules
    archive: Archive

    def is_enabled(self, module: str) -> bool:
        """Whether a feature runs on this domain."""
        return module not in self.modules.disable

    def options(self, module: str, kind: type[T]) -> T:
        """The options of a feature on this domain; its defaults where the file has none."""
        found = self.modules.options.get(module)
        return found if isinstance(found, kind) else kind()


def default_listeners(
    *, is_local: bool, has_components: bool, is_clustered: bool = False
) -> tuple[Listener, ...]:
    """The ports of `make run`: on loopback for `localhost` alone, otherwise on every address."""
    if is_local:
        anywhere = "127.0.0.1"
    else:
        anywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104  an XMPP server
    found = [
        Listener(kind="c2s", address=f"{anywhere}:5222", tls="starttls"),
        Listener(kind="c2s", address=f"{anywhere}:5223", tls="direct"),
        Listener(kind="http", address=f"{anywhere}:5280", tls="none"),
        Listener(kind="http", address=f"{anywhere}:5281", tls="direct"),
    ]
    if has_components:
        found.append(Listener(kind="component", address="127.0.0.1:5347", tls="none"))
    if is_clustered:
        found.append(Listener(kind="cluster", address=f"{anywhere}:{RELAY_PORT}"))
    return tuple(found)
