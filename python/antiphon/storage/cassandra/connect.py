# SPDX-License-Identifier: Apache-2.0
"""A connection to a Cassandra cluster, for migrations and checks; blocks, never for nodes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Protocol

import msgspec

from antiphon.config.stored import Cassandra

Row = tuple[object, ...]

_PORT = 9042
_REQUEST_S = 30.0
"""Changes of the schema take their time."""
_AGREE_S = 30.0
"""So long nodes may differ about the schema; they learn of changes from each other in seconds."""
_AGREE_PAUSE_S = 0.1
_ATTEMPTS = 5
"""Of a lightweight transaction."""
_RETRY_PAUSE_S = 0.5


class _Future(Protocol):
    is_schema_agreed: bool

    def result(self) -> object: ...


class _Session(Protocol):
    @property
    def hosts(self) -> Iterable[object]: ...
    def execute(
        self, query: object, parameters: object = None, *, host: object = None
    ) -> Iterable[Sequence[object]]: ...
    def execute_async(self, query: object) -> _Future: ...
    def set_keyspace(self, keyspace: str) -> None: ...


class _Cluster(Protocol):
    def connect(self) -> _Session: ...
    def shutdown(self) -> None: ...


class CassandraFailure(Exception):
    """What is wrong and what to do, in one line."""


class Connection:
    """A session. All methods raise CassandraFailure."""

    def __init__(self, driver: ModuleType, session: _Session) -> None:
        self._driver = driver
        self._session = session

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        """What a query answers, read at LOCAL_QUORUM."""
        return self._run(statement, parameters, "LOCAL_QUORUM")

    def write(self, statement: str, parameters: Sequence[object] = ()) -> None:
        """Changes rows so that a read at LOCAL_QUORUM sees it in every data centre."""
        self._run(statement, parameters, "EACH_QUORUM")

    def condition(self, statement: str, parameters: Sequence[object] = ()) -> bool:
        """A lightweight transaction: whether it was applied.

        Tried again where nodes are too slow to answer, as they are when several try at once; so
        false may also mean that an earlier attempt was applied.
        """
        late = importlib.import_module("cassandra").Timeout
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._applied(statement, parameters)
            except CassandraFailure as failure:
                if not isinstance(failure.__cause__, late):
                    raise
            time.sleep(_RETRY_PAUSE_S)
        return self._applied(statement, parameters)

    def _applied(self, statement: str, parameters: Sequence[object]) -> bool:
        rows = self._run(statement, parameters, "QUORUM")
        return bool(rows and rows[0][0])

    def change_schema(self, statement: str) -> None:
        """Changes the schema and waits until all nodes agree on it.

        Also where it is as the statement says already: whoever made it so may still be waiting.
        """
        with _failures(self._driver, "the statement fails"):
            future = self._session.execute_async(self._statement(statement, "QUORUM"))
            future.result()
            # Of a statement that changes nothing the driver says that it is agreed on.
            is_agreed = future.is_schema_agreed and self._agree()
        if not is_agreed:
            raise CassandraFailure(
                "the nodes do not agree on the schema; see `nodetool describecluster`, bring back "
                "those that are away, and run it again"
            )

    def _agree(self) -> bool:
        """Waits until all nodes that can be asked know the same schema; false: too long.

        Each is asked for its own, as what nodes know of each other is some seconds old.
        """
        query = self._statement("SELECT schema_version FROM system.local", "ONE")
        until = time.monotonic() + _AGREE_S
        while len(self._of_each(query)) > 1:
            if time.monotonic() > until:
                return False
            time.sleep(_AGREE_PAUSE_S)
        return True

    def _of_each(self, query: object) -> set[str]:
        """What the nodes answer; those that are away do not count."""
        answers = set()
        for host in self._session.hosts:
            with contextlib.suppress(self._driver.NoHostAvailable):
                answers |= {str(row[0]) for row in self._session.execute(query, host=host)}
        return answers

    def use(self, keyspace: str) -> None:
        """Takes table names from this keyspace from now on.

        One that was just made is listed a little before the first node can use it, and longer
        before all can; a connection to one that cannot stays without.
        """
        with _failures(self._driver, f"no keyspace {keyspace}"):
            self._use_where_it_is(keyspace)
            self._agree()
            self._session.set_keyspace(keyspace)

    def _use_where_it_is(self, keyspace: str) -> None:
        until = time.monotonic() + _AGREE_S
        # The one asked refuses, or another that the session is connected to.
        refused = (
            importlib.import_module("cassandra").InvalidRequest,
            importlib.import_module("cassandra.connection").ConnectionException,
        )
        while True:
            try:
                return self._session.set_keyspace(keyspace)
            except refused:
                if time.monotonic() > until:
                    raise
            time.sleep(_AGREE_PAUSE_S)

    def nodes(self) -> dict[str, int]:
        """How many nodes each data centre has."""
        found = self.rows("SELECT data_center FROM system.peers")
        found += self.rows("SELECT data_center FROM system.local")
        names = [str(row[0]) for row in found]
        return {name: names.count(name) for name in sorted(set(names))}

    def versions(self) -> list[str]:
        """The releases that run, without doubles."""
        found = self.rows("SELECT release_version FROM system.peers")
        found += self.rows("SELECT release_version FROM system.local")
        return sorted({str(row[0]) for row in found})

    def _statement(self, text: str, consistency: str) -> object:
        query = importlib.import_module("cassandra.query")
        levels = importlib.import_module("cassandra").ConsistencyLevel
        made: object = query.SimpleStatement(text, consistency_level=getattr(levels, consistency))
        return made

    def _run(self, text: str, parameters: Sequence[object], consistency: str) -> list[Row]:
        with _failures(self._driver, "the statement fails"):
            answer = self._session.execute(
                self._statement(text, consistency), tuple(parameters) or None
            )
            return [tuple(row) for row in answer]


@contextlib.contextmanager
def connected(options: Cassandra) -> Iterator[Connection]:
    """A connection as the configuration says. Raises CassandraFailure."""
    # The driver warns of every node that is away; what matters comes back as an error.
    logger = logging.getLogger("cassandra")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    try:
        driver = importlib.import_module("cassandra.cluster")
    except ImportError as error:
        raise CassandraFailure(
            f"the Python package cassandra-driver is missing ({error}): pip install it"
        ) from error
    cluster = _cluster(driver, options)
    try:
        yield Connection(driver, _session(driver, cluster, options))
    finally:
        cluster.shutdown()


def _session(driver: ModuleType, cluster: _Cluster, options: Cassandra) -> _Session:
    try:
        with _failures(driver, f"no Cassandra answers at {', '.join(options.contact_points)}"):
            return cluster.connect()
    except CassandraFailure as failure:
        raise _datacenter_fault(options) or failure from failure


def _datacenter_fault(options: Cassandra) -> CassandraFailure | None:
    """To a driver that was told a data centre that there is not, no node counts."""
    name = options.local_datacenter
    if name is None:
        return None
    anywhere = msgspec.structs.replace(options, local_datacenter=None)
    with contextlib.suppress(CassandraFailure), connected(anywhere) as connection:
        there = connection.nodes()
        if name not in there:
            return CassandraFailure(
                f"Cassandra has no data centre {name}, only {', '.join(there)}; correct "
                "storage.cassandra.local_datacenter"
            )
    return None


def _cluster(driver: ModuleType, options: Cassandra) -> _Cluster:
    policies = importlib.import_module("cassandra.policies")
    query = importlib.import_module("cassandra.query")
    if options.local_datacenter is not None:
        balancing = policies.DCAwareRoundRobinPolicy(options.local_datacenter)
    else:
        balancing = policies.RoundRobinPolicy()
    profile = driver.ExecutionProfile(
        load_balancing_policy=balancing,
        request_timeout=_REQUEST_S,
        row_factory=query.tuple_factory,
    )
    login = None
    if options.user is not None:
        auth = importlib.import_module("cassandra.auth")
        login = auth.PlainTextAuthProvider(options.user, options.password or "")
    made: _Cluster = driver.Cluster(
        [_endpoint(point) for point in options.contact_points],
        execution_profiles={driver.EXEC_PROFILE_DEFAULT: profile},
        auth_provider=login,
        ssl_context=_tls(options),
        protocol_version=4,
        connect_timeout=float(options.connect_seconds),
        max_schema_agreement_wait=_REQUEST_S,
    )
    return made


def _endpoint(point: str) -> tuple[str, int]:
    host, colon, port = point.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return point.strip("[]"), _PORT
    return host.strip("[]"), int(port)


def _tls(options: Cassandra) -> ssl.SSLContext | None:
    if options.ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        raise CassandraFailure(f"storage.cassandra: TLS cannot be used: {error}") from error
    return context


@contextlib.contextmanager
def _failures(driver: ModuleType, prefix: str) -> Iterator[None]:
    """The driver's errors as one line."""
    base = importlib.import_module("cassandra")
    connection = importlib.import_module("cassandra.connection")
    try:
        yield
    except driver.NoHostAvailable as error:
        # By node; a list where none could even be asked (no such data centre).
        each = error.errors.values() if isinstance(error.errors, dict) else error.errors
        reasons = sorted({_said(one) for one in each if isinstance(one, BaseException)})
        raise CassandraFailure(f"{prefix}: {'; '.join(reasons) or _said(error)}") from error
    except (base.DriverException, connection.ConnectionException, OSError) as error:
        raise CassandraFailure(f"{prefix}: {_said(error)}") from error


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "Bad credentials" in text or "AuthenticationFailed" in type(error).__name__:
        return f"the login is refused ({text}); correct storage.cassandra.user and password"
    return text or type(error).__name__
