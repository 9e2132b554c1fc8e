# SPDX-License-Identifier: Apache-2.0
"""What `antiphon check` looks at outside the configuration: ports, files, names, the store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from antiphon._core import certificate_names
from antiphon.cluster import tls
from antiphon.cluster.api import ask_etcd
from antiphon.config.check import parse_address
from antiphon.config.core import control_address
from antiphon.config.load import Loaded
from antiphon.config.problem import Path as KeyPath
from antiphon.config.problem import Problem
from antiphon.config.schema import Config, HostSettings
from antiphon.storage.cassandra import migrations
from antiphon.storage.cassandra.connect import CassandraFailure, connected

DATABASE = "antiphon.db"
_SOON_S = 14 * 24 * 3600
_LEAST_BYTES = 100 * 1024 * 1024
_DNS_S = 3.0

Found = Iterator[tuple[KeyPath, str, bool]]
"""(key, what is wrong, whether it is only a warning)."""


def problems(loaded: Loaded, *, is_running: bool) -> list[Problem]:
    """Everything wrong around a node; with `is_running` it holds its ports and its store itself."""
    config = loaded.config
    found = [*certificates(config), *directory(config), *names(config)]
    if config.is_clustered:
        found += [*tls.problems(config), *etcd(config)]
    if not is_running:
        found += [*ports(config), *store(config)]
    return [
        loaded.origin.problem(path, text, kind="warning" if is_warning else "error")
        for path, text, is_warning in found
    ]


def ports(config: Config) -> Found:
    """Whether each listener's address can be bound."""
    for path, text in _addresses(config):
        address = parse_address(text)
        if address is None:
            continue
        family = socket.AF_INET6 if address[0].version == 6 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((str(address[0]), address[1]))
        except OSError as error:
            yield path, f"cannot listen on {text}: {_advice(error)}", False


def _addresses(config: Config) -> Iterator[tuple[KeyPath, str]]:
    for index, listener in enumerate(config.listeners()):
        path: KeyPath = ("listener", index, "address") if config.listener else ("listener",)
        yield path, listener.address
    if config.is_clustered:
        yield ("cluster", "control_port"), control_address(config)


def certificates(config: Config) -> Found:
    """Whether each domain's certificate can be read, fits its key, names the domain and lasts."""
    for host in config.hosts():
        if host.certificate is None or host.key is None:
            continue
        own = config.domain.get(host.domain)
        is_own = own is not None and own.certificate is not None
        path: KeyPath = ("domain", host.domain) if is_own else ("tls",)
        yield from _certificate(host, host.certificate, host.key, path)


def _certificate(host: HostSettings, certificate: str, key: str, path: KeyPath) -> Found:
    at = (*path, "certificate")
    try:
        listed, end = certificate_names(Path(certificate).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield at, f"{certificate} is not a certificate: {error}", False
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_none)
    except (ssl.SSLError, OSError, ValueError):
        yield (*path, "key"), f"{key} is not the unencrypted key of {certificate}", False
    if not any(matches(name, host.domain) for name in listed):
        shown = ", ".join(listed) or "nothing"
        yield at, f"{certificate} does not name {host.domain}, only {shown}", False
    left_s = end - time.time()
    if left_s <= 0:
        yield at, f"{certificate} has expired; renew it and send SIGHUP", False
    elif left_s < _SOON_S:
        yield at, f"{certificate} ends in {int(left_s // 86_400)} days", True


def matches(name: str, domain: str) -> bool:
    """RFC 6125 §6.4.3: equal, or a wildcard for exactly the leftmost label."""
    with contextlib.suppress(UnicodeError):
        domain = domain if domain.isascii() else domain.encode("idna").decode()
    name, domain = name.lower().rstrip("."), domain.lower()
    if name.startswith("*."):
        return domain.partition(".")[2] == name[2:]
    return name == domain


def directory(config: Config) -> Found:
    """Whether the data directory can be written, or made, and has room."""
    path: KeyPath = ("data_dir",)
    folder = Path(config.data_dir)
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        yield path, f"{there} is not a folder", False
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield path, f"{there} cannot be written by this user", False
        return
    free = shutil.disk_usage(there).free
    if free < _LEAST_BYTES:
        yield path, f"only {free // 1024 // 1024} MiB are free at {there}", True
    if folder.exists() and folder.stat().st_mode & 0o007:
        yield path, f"other users can look into {folder}; chmod o-rwx it", True


def store(config: Config) -> Found:
    """Whether the database opens and nobody else holds it; whether Cassandra can be used."""
    if config.storage.backend == "cassandra":
        yield from _cassandra(config)
        return
    file = Path(config.data_dir) / DATABASE
    if not file.exists():
        return
    path: KeyPath = ("storage", "backend")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
        ) as base:
            base.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            yield path, f"{file} is in use by another program", False
        else:
            yield path, f"{file} cannot be opened: {text}", False


def _cassandra(config: Config) -> Found:
    options = config.storage.cassandra
    path: KeyPath = ("storage", "cassandra")
    try:
        with connected(options) as connection:
            nodes, versions = connection.nodes(), connection.versions()
            fault = migrations.status(connection, options.keyspace).fault
    except CassandraFailure as error:
        yield (*path, "contact_points"), str(error), False
        return
    if options.local_datacenter is None and len(nodes) > 1:
        text = f"is needed, since there are several: {', '.join(nodes)}"
        yield (*path, "local_datacenter"), text, False
    if any(int(version.split(".")[0]) < 4 for version in versions):
        text = f"Cassandra {', '.join(versions)} is too old; 4.1 and 5.0 are supported"
        yield (*path, "contact_points"), text, False
    if fault is not None:
        yield (*path, "keyspace"), f"{options.keyspace} {fault}", False


def etcd(config: Config) -> Found:
    """Whether etcd answers, with a majority, a version that we know, and our keys."""
    path: KeyPath = ("cluster", "etcd", "endpoints")
    answers, _nodes, fault = asyncio.run(ask_etcd(config.cluster.etcd))
    up = [one for one in answers if one.fault is None]
    for index, one in enumerate(answers):
        if one.fault is not None:
            text = f"etcd at {one.endpoint} does not answer: {one.fault}"
            yield (*path, index), text, len(up) * 2 > len(answers)
        elif one.is_old:
            text = f"etcd {one.version} at {one.endpoint} is too old; 3.5 or later is needed"
            yield (*path, index), text, False
    if up and fault is not None:
        yield path, f"etcd cannot be read: {fault}", False


def names(config: Config) -> Found:
    """Whether the domains have addresses in DNS; a warning only, as DNS may not be there yet."""
    missing = [
        domain
        for domain in config.domains
        if domain != "localhost" and not domain.endswith((".localhost", ".example", ".test"))
    ]
    results: dict[str, bool] = {}
    threads = [
        threading.Thread(target=_resolve, args=(domain, results), daemon=True) for domain in missing
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + _DNS_S
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    for domain in missing:
        if not results.get(domain):
            index = config.domains.index(domain)
            text = f"{domain} is not found in DNS; clients need A, AAAA or SRV records"
            yield ("domains", index), text, True


def _resolve(domain: str, results: dict[str, bool]) -> None:
    try:
        results[domain] = bool(socket.getaddrinfo(domain, None))
    except (OSError, UnicodeError):
        results[domain] = False


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; stop it or choose another"
    if error.errno == errno.EACCES:
        return "ports below 1024 need the right to bind them"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)


def _none() -> str:
    """An encrypted key is refused, not asked for."""
    return ""
