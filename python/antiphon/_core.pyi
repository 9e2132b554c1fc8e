"""The Rust core: values of the protocol, and the node.

Written by hand and checked by stubtest and the parity tests.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self, final

DIGEST: str
"""Digest of the Rust sources this library was built from (the stale-library check)."""

VERSION: str
"""Version of the workspace."""

class JidError(ValueError):
    """The text is not an address (RFC 7622); the message names the part."""

class ConfigError(ValueError):
    """The node refuses its configuration or surroundings; the message says what to do."""

@final
class Jid:
    """A prepared address, valid by construction; hashable, ordered by its text."""

    def __new__(cls, text: str) -> Self: ...
    @property
    def local(self) -> str | None: ...
    @property
    def domain(self) -> str: ...
    @property
    def resource(self) -> str | None: ...
    @property
    def bare(self) -> Jid: ...
    @property
    def is_bare(self) -> bool: ...
    def with_resource(self, resource: str) -> Jid: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __lt__(self, other: Jid, /) -> bool: ...
    def __le__(self, other: Jid, /) -> bool: ...
    def __gt__(self, other: Jid, /) -> bool: ...
    def __ge__(self, other: Jid, /) -> bool: ...

@final
class Element:
    """An immutable XML element, its namespace resolved; prefixes are forgotten."""

    def __new__(
        cls,
        name: str,
        ns: str,
        attrs: Mapping[str, str] | None = None,
        children: Sequence[Element | str] | None = None,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def ns(self) -> str: ...
    @property
    def attrs(self) -> dict[str, str]:
        """Attributes without a namespace; a new dict each time."""
    @property
    def text(self) -> str:
        """The character data of this element itself."""
    @property
    def children(self) -> list[Element]:
        """The child elements."""
    def get(self, name: str, default: str | None = None) -> str | None: ...
    def find(self, ns: str, name: str) -> Element | None:
        """The first child element with this namespace and name."""
    def with_children(self, children: Sequence[Element | str]) -> Element:
        """The same element with more children behind its own."""
    def to_bytes(self) -> bytes:
        """Self-contained XML."""
    @staticmethod
    def parse(xml: bytes, default_ns: str = "") -> Element:
        """Parses one element (at most 1 MiB). Raises ValueError."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Stanza:
    """A stanza: a frozen handle; getters build Python values when asked."""

    def __new__(
        cls,
        kind: Literal["message", "presence", "iq"],
        *,
        type: str | None = None,
        id: str | None = None,
        frm: Jid | None = None,
        to: Jid | None = None,
        children: Sequence[Element] | None = None,
    ) -> Self: ...
    @property
    def kind(self) -> Literal["message", "presence", "iq"]: ...
    @property
    def type(self) -> str | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def frm(self) -> Jid | None: ...
    @property
    def to(self) -> Jid | None: ...
    @property
    def lang(self) -> str | None: ...
    @property
    def payload(self) -> Element | None:
        """The first child element."""
    @property
    def element(self) -> Element:
        """The whole stanza as an element in `jabber:client`."""
    @property
    def session(self) -> tuple[int, int] | None:
        """The local session that sent it, for the operations that want one."""
    @property
    def address(self) -> str | None:
        """The IP address of the peer of a request made before login (XEP-0077)."""

@final
class HttpRequest:
    """One complete HTTP request; the body is bounded by the listener."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case."""
    @property
    def body(self) -> bytes: ...
    @property
    def peer(self) -> str: ...
    @property
    def is_secure(self) -> bool: ...

# What `Core.drain` yields: (kind, ticket, a, b).
EV_IQ: int
"""An IQ a declaration wants: ticket for the answer, a = Stanza, b = handler number."""
EV_RESULT: int
"""A CALL succeeded, or a REQUEST was answered: a = the value (for REQUEST the answering Stanza)."""
EV_FAILED: int
"""A CALL failed: a = stanza error condition, b = text or None."""
EV_HTTP: int
"""An HTTP request: ticket for the answer, a = HttpRequest."""
EV_LOG: int
"""A log record from Rust: ticket = logging level, a = event, b = dict of fields."""
EV_CAPS: int
"""A presence with entity capabilities not yet known: a = Stanza (XEP-0115), b = None."""

# What `Core.submit` takes: tuples that start with one of these.
ACT_REPLY: int
"""(ACT_REPLY, iq ticket, Element | None): the IQ result."""
ACT_FAIL: int
"""(ACT_FAIL, iq ticket, condition, type | None, text | None, application Element | None)"""
ACT_SEND: int
"""(ACT_SEND, Stanza): routes a stanza of the server; `frm` and `to` must be set."""
ACT_CALL: int
"""(ACT_CALL, ticket, operation, arguments): see antiphon.storage.api for the operations."""
ACT_HTTP: int
"""(ACT_HTTP, ticket, status, list of (name, value), body)"""
ACT_REQUEST: int
"""(ACT_REQUEST, ticket, Stanza, timeout in seconds): an IQ get or set that wants an answer."""
ACT_CAPS: int
"""(ACT_CAPS, hash name, ver): these capabilities are known from now on."""

OPERATIONS: tuple[str, ...]
"""Names that ACT_CALL takes."""

@final
class Core:
    """One node: owns every thread of the runtime. Several may live in one process."""

    def __new__(cls, config: str) -> Self:
        """`config` is the JSON of antiphon.config.core. Raises ConfigError."""
    def start(self) -> int:
        """Opens the store, binds the listeners, starts the threads; an eventfd that becomes
        readable when events wait. Raises ConfigError (port in use, bad certificate, store)."""
    def drain(self, limit: int = 256) -> list[tuple[int, int, object, object]]:
        """Up to `limit` events, oldest first; clears the eventfd when none is left."""
    def submit(self, actions: Sequence[tuple[object, ...]]) -> None:
        """Carries out actions in order. Never blocks. Raises TypeError or ValueError for an action
        of the wrong shape; the ones before it are carried out."""
    def reload(self, config: str) -> None:
        """Certificates, limits, hosts and handlers from a new configuration. Raises ConfigError and
        changes nothing then."""
    def stop_accepting(self) -> None:
        """Closes the listeners (the first step of a drain)."""
    def stop(self, deadline_s: float) -> None:
        """Tells every client `system-shutdown`, commits everything, joins every thread."""
    def crossings(self) -> int:
        """Events that crossed into Python so far, log records left out."""
    def metrics(self) -> str:
        """Prometheus text of the counters kept in Rust."""
    def addresses(self) -> list[tuple[str, str]]:
        """(kind, address) of every listener as bound."""
    def cluster_status(self) -> str:
        """JSON of what the node knows of the cluster and of itself (antiphon.cluster.status);
        `null` for a node that is alone."""
    def cluster_home(self, jid: str) -> str | None:
        """Name of the node where the entity of this address lives; None while nobody owns it."""
    def cluster_drain(self) -> None:
        """Begins to give away shards and sessions; returns at once. Nothing for a node alone."""
    def cluster_stay(self) -> bool:
        """Takes a drain back; False: this node ends, or is alone."""
    def cluster_rebalance(self) -> tuple[int, int, int, bool] | None:
        """Has the planner plan anew, where this node plans; else None. Shards that are on their way
        or not where they shall be, the smallest share of a node, the largest, and whether nothing
        is planned for now."""

def toml_positions(text: str) -> dict[str, int]:
    """Line number (from 1) of every key and table of a TOML document, by dotted path with list
    indices (`listener.0.address`). Raises ValueError with line and reason."""

def derive_keys(password: str, hash: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """(StoredKey, ServerKey) of RFC 5802 §3; `hash` is sha-1, sha-256 or sha-512. Takes
    milliseconds with the interpreter detached. Raises ValueError for a password that OpaqueString
    refuses."""

def self_signed(domains: Sequence[str]) -> tuple[str, str]:
    """A new P-256 certificate and key as PEM, valid for ten years, naming these domains."""

def certificate_names(pem: str) -> tuple[list[str], float]:
    """DNS names of the first certificate in a PEM text, and its end as seconds since 1970. Raises
    ValueError."""

def conditions() -> tuple[list[str], list[str]]:
    """Names of all stanza error conditions and of all stream error conditions, in the order of
    the RFC."""
