# SPDX-License-Identifier: Apache-2.0
"""What one key alone cannot tell: names, addresses, files, and what goes with what."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path as FilePath

from antiphon._core import Jid, JidError
from antiphon.config.compose import Options
from antiphon.config.problem import Origin, Path, Problem, choices, nearest
from antiphon.config.schema import HTTP_PATHS, MECHANISMS, Config, Listener

_EXTRA_MECHANISMS = ("ANONYMOUS", "EXTERNAL")
_LEAST_STANZA_BYTES = 10_000

Found = Iterator[tuple[Path, str]]


def problems(config: Config, origin: Origin, options: Options) -> list[Problem]:
    """Every problem and warning of a configuration whose keys are right."""
    errors = [
        *_domains(config),
        *_certificates(config),
        *_listeners(config),
        *_components(config),
        *_mechanisms(config),
        *_backends(config),
        *_cluster(config),
        *_modules(config, options),
    ]
    return [
        *(origin.problem(path, text) for path, text in errors),
        *(origin.problem(path, text, kind="warning") for path, text in _warnings(config)),
    ]


def domain_fault(text: str) -> str | None:
    """What is wrong with the name of a domain; None if nothing is."""
    try:
        jid = Jid(text)
    except (JidError, ValueError) as error:
        return f'"{text}" is not a domain name: {error}'
    if jid.local is not None or jid.resource is not None:
        return f'"{text}" is an address, not a domain; write {jid.domain}'
    if jid.domain != text:
        return f'"{text}" is not in its prepared form; write {jid.domain}'
    return None


def parse_address(text: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int] | None:
    """(IP address, port) of `127.0.0.1:5222` or `[::1]:5222`; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return None
    has_brackets = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if has_brackets else host)
    except ValueError:
        return None
    return (address, int(port)) if has_brackets == (address.version == 6) else None


def _domains(config: Config) -> Found:
    seen: set[str] = set()
    for index, domain in enumerate(config.domains):
        fault = domain_fault(domain)
        if fault is None and domain in seen:
            fault = f'"{domain}" is named twice'
        if fault is not None:
            yield ("domains", index), fault
        seen.add(domain)
    for name, own in config.domain.items():
        if name not in config.domains:
            meant = nearest(name, config.domains)
            hint = f"; did you mean {meant}?" if meant else "; add it there or remove this table"
            yield ("domain", name), f"not one of domains{hint}"
        yield from _admins(own.admins or (), ("domain", name, "admins"))
    yield from _admins(config.admins, ("admins",))


def _admins(admins: tuple[str, ...], path: Path) -> Found:
    for index, admin in enumerate(admins):
        try:
            jid = Jid(admin)
        except (JidError, ValueError) as error:
            yield (*path, index), f'"{admin}" is not an address: {error}'
            continue
        if jid.local is None or jid.resource is not None:
            yield (*path, index), f'"{admin}" is not a bare JID like admin@{jid.domain}'


def _certificates(config: Config) -> Found:
    yield from _pair(("tls",), config.tls.certificate, config.tls.key)
    for name, own in config.domain.items():
        yield from _pair(("domain", name), own.certificate, own.key)
    if config.auth.client_ca is not None:
        yield from _readable(("auth", "client_ca"), config.auth.client_ca)


def _pair(path: Path, certificate: str | None, key: str | None) -> Found:
    if certificate is None and key is not None:
        yield (*path, "key"), "needs the certificate beside it"
    if certificate is not None:
        yield from _readable((*path, "certificate"), certificate)
        if key is None:
            yield (*path, "certificate"), "needs its key beside it"
    if key is not None:
        yield from _readable((*path, "key"), key)


def _readable(path: Path, file: str) -> Found:
    try:
        with FilePath(file).open("rb"):
            return
    except OSError as error:
        yield path, f"cannot read {file}: {error.strerror}"


def _listeners(config: Config) -> Found:
    bound: list[tuple[int, Listener]] = []
    for index, listener in enumerate(config.listener):
        path: Path = ("listener", index)
        yield from _listener(listener, path)
        clash = next((n for n, other in bound if _overlap(listener, other)), None)
        if clash is not None:
            other = config.listener[clash].address
            yield (*path, "address"), f"{listener.address} is taken by listener[{clash}] ({other})"
        bound.append((index, listener))


def _listener(listener: Listener, path: Path) -> Found:
    if listener.kind == "s2s":
        yield (*path, "kind"), '"s2s" needs a later version; remove this listener'
    if parse_address(listener.address) is None:
        yield (
            (*path, "address"),
            f'"{listener.address}" is not an IP address and port like 127.0.0.1:5222 or [::1]:5222',
        )
    if listener.kind == "cluster" and listener.tls not in (None, "direct"):
        yield (*path, "tls"), "nodes always speak under TLS, by [cluster.tls]; leave this out"
    elif listener.kind != "c2s" and listener.security == "starttls":
        yield (
            (*path, "tls"),
            f'"starttls" is for c2s only; use "direct" or "none" for {listener.kind}',
        )
    if listener.paths is None:
        return
    if listener.kind != "http":
        yield (*path, "paths"), f"is for http only, not for {listener.kind}"
    for index, served in enumerate(listener.paths):
        if served not in HTTP_PATHS:
            meant = nearest(served, HTTP_PATHS)
            hint = f"did you mean {meant}?" if meant else f"valid are {choices(HTTP_PATHS)}"
            yield (*path, "paths", index), f'nothing is served at "{served}"; {hint}'


def _overlap(one: Listener, other: Listener) -> bool:
    """Whether the system would refuse the second of the two."""
    first, second = parse_address(one.address), parse_address(other.address)
    if first is None or second is None or first[1] != second[1] or first[1] == 0:
        return False
    return first[0] == second[0] or first[0].is_unspecified or second[0].is_unspecified


def _components(config: Config) -> Found:
    seen = set(config.domains)
    for index, component in enumerate(config.component):
        path: Path = ("component", index)
        fault = domain_fault(component.domain)
        if fault is None and component.domain in seen:
            fault = f'"{component.domain}" is in use already'
        if fault is not None:
            yield (*path, "domain"), fault
        seen.add(component.domain)
        if not component.secret:
            yield (*path, "secret"), "is missing; set secret or secret_file"
    has_listener = any(listener.kind == "component" for listener in config.listeners())
    if config.component and not has_listener:
        yield (
            ("component", 0),
            'no listener takes components; add a [[listener]] with kind = "component"',
        )


def _mechanisms(config: Config) -> Found:
    known = (*MECHANISMS, *_EXTRA_MECHANISMS)
    path: Path = ("auth", "mechanisms")
    for index, name in enumerate(config.auth.mechanisms):
        if name not in known:
            meant = nearest(name.upper(), known)
            hint = f"did you mean {meant}?" if meant else f"valid are {choices(known)}"
            yield (*path, index), f'"{name}" is not a mechanism; {hint}'
    if "EXTERNAL" in config.auth.mechanisms and config.auth.client_ca is None:
        yield path, "EXTERNAL needs auth.client_ca, the authorities of client certificates"
    if not config.auth.mechanisms and config.auth.client_ca is None:
        yield path, "is empty, so nobody can log in; name at least one"


def _backends(config: Config) -> Found:
    if config.storage.backend == "cassandra":
        yield from _cassandra(config)


def _cassandra(config: Config) -> Found:
    given, path = config.storage.cassandra, ("storage", "cassandra")
    if not given.contact_points:
        yield (*path, "contact_points"), "is empty; name some nodes"
    for index, point in enumerate(given.contact_points):
        host, colon, port = point.rpartition(":")
        is_good = port.isascii() and port.isdigit() and 0 < int(port) < 65536
        if colon and not (host and (is_good or ":" in host)):
            yield (*path, "contact_points", index), f'"{point}" is not host:port'
    yield from _pair(path, given.certificate, given.key)
    if given.ca is not None:
        yield from _readable((*path, "ca"), given.ca)
    elif given.certificate is not None:
        yield (*path, "certificate"), "needs the ca beside it, which turns TLS on"
    yield from _login(path, given.user, given.password)


def _login(path: Path, user: str | None, password: str | None) -> Found:
    if user is None and password is not None:
        yield (*path, "password"), "needs the user beside it"
    if user is not None and password is None:
        yield (*path, "user"), "needs password or password_file beside it"


def _cluster(config: Config) -> Found:
    path: Path = ("cluster",)
    places = [n for n, one in enumerate(config.listener) if one.kind == "cluster"]
    if not config.is_clustered:
        for index in places:
            yield (
                ("listener", index, "kind"),
                '"cluster" needs other nodes: set cluster.backend = "etcd" or remove this listener',
            )
        return
    if config.storage.backend == "sqlite":
        yield (
            (*path, "backend"),
            '"etcd" needs storage.backend = "cassandra": with SQLite each node has a file of its '
            "own, and a message of another node's user would not be there",
        )
    if config.listener and not places:
        yield (*path, "backend"), 'no listener takes other nodes; add one of kind = "cluster"'
    for index in places[1:]:
        yield ("listener", index, "kind"), f"listener[{places[0]}] is one already; keep one"
    for key in ("ca", "certificate", "key"):
        file: str | None = getattr(config.cluster.tls, key)
        if file is None:
            yield (*path, "tls", key), "is missing; nodes speak to each other under TLS only"
        else:
            yield from _readable((*path, "tls", key), file)
    yield from _control(config)
    yield from _etcd(config)


def _control(config: Config) -> Found:
    """The port of control calls, which is on the address of the cluster's listener."""
    listener = config.cluster_listener()
    address = parse_address(listener.address) if listener is not None else None
    if listener is None or address is None:
        return
    if address[1] == 0:
        at: Path = ("listener", config.listeners().index(listener), "address")
        yield at, "other nodes must know the port; choose one"
    host = listener.address.rpartition(":")[0]
    control = Listener(kind="cluster", address=f"{host}:{config.cluster.control_port}")
    for one in config.listeners():
        if _overlap(one, control):
            yield ("cluster", "control_port"), f"{control.address} is taken by {one.address}"


def _etcd(config: Config) -> Found:
    given, path = config.cluster.etcd, ("cluster", "etcd")
    if not given.endpoints:
        yield (*path, "endpoints"), "is empty; name the members, host:port"
    for index, endpoint in enumerate(given.endpoints):
        fault = endpoint_fault(endpoint, has_ca=given.ca is not None)
        if fault is not None:
            yield (*path, "endpoints", index), f'"{endpoint}" {fault}'
    yield from _pair(path, given.certificate, given.key)
    if given.ca is not None:
        yield from _readable((*path, "ca"), given.ca)
    elif given.certificate is not None:
        yield (*path, "certificate"), "needs the ca beside it, which turns TLS on"
    yield from _login(path, given.user, given.password)


def endpoint_fault(endpoint: str, *, has_ca: bool) -> str | None:
    """What is wrong with the address of a member of etcd; None if nothing is."""
    scheme, mark, rest = endpoint.rpartition("://")
    if mark and scheme not in ("http", "https"):
        return "has an unknown scheme; write host:2379 or https://host:2379"
    if scheme == "https" and not has_ca:
        return "needs cluster.etcd.ca, the authority of its certificate"
    host, colon, port = rest.rstrip("/").rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = host and (is_bracketed or not set(host) & set(" :/[]@?#"))
    if not (colon and is_host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        return "is not host:port"
    return None


def _modules(config: Config, options: Options) -> Found:
    yield from _disabled(config.modules.disable, options, ("modules", "disable"))
    for name, own in config.domain.items():
        if own.modules is not None:
            path: Path = ("domain", name, "modules", "disable")
            yield from _disabled(own.modules.disable, options, path)


def _disabled(names: tuple[str, ...], options: Options, path: Path) -> Found:
    for index, name in enumerate(names):
        if name not in options:
            meant = nearest(name, options)
            hint = f"did you mean {meant}?" if meant else f"there are {choices(sorted(options))}"
            yield (*path, index), f'"{name}" is not a feature; {hint}'


def _warnings(config: Config) -> Found:
    for index, listener in enumerate(config.listener):
        is_open = listener.kind == "c2s" and listener.security == "none"
        if is_open and not config.auth.allow_plaintext:
            yield (
                ("listener", index, "tls"),
                'nobody can log in with "none"; use "starttls", or set auth.allow_plaintext = true',
            )
    for key in ("stanza_bytes", "stanza_bytes_before_login"):
        value: int = getattr(config.limits, key)
        if 0 < value < _LEAST_STANZA_BYTES:
            yield (
                ("limits", key),
                f"{value} is below {_LEAST_STANZA_BYTES}, the least that RFC 6120 §13.12 allows",
            )
