# SPDX-License-Identifier: Apache-2.0
"""The certificates of control calls: `[cluster.tls]`, the same as of the links between nodes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from antiphon._core import certificate_names
from antiphon.cluster.api import ControlError, Material
from antiphon.config.clustered import ClusterTls
from antiphon.config.problem import Path as KeyPath
from antiphon.config.schema import Config

_SOON_S = 14 * 24 * 3600


def read(tls: ClusterTls) -> Material:
    """Reads the three files, and has OpenSSL agree with them. Raises ControlError."""
    found: dict[str, bytes] = {}
    for name in ("ca", "certificate", "key"):
        file: str | None = getattr(tls, name)
        if file is None:
            raise ControlError(f"cluster.tls.{name} is missing", is_unreached=True)
        try:
            found[name] = Path(file).read_bytes()
        except OSError as error:
            raise ControlError(
                f"cluster.tls.{name}: cannot read {file}: {error.strerror}", is_unreached=True
            ) from error
    fault = _fault(tls)
    if fault is not None:
        key, text = fault
        raise ControlError(f"cluster.tls.{key}: {text}", is_unreached=True)
    return Material(**found)


def bears(names: list[str], node: str) -> bool:
    """Whether a certificate with these DNS names is that of a node; a wildcard is nobody's name."""
    return any(name.lower() == node.lower() for name in names)


def problems(config: Config) -> Iterator[tuple[KeyPath, str, bool]]:
    """(key, what is wrong, whether it is only a warning) of this node's certificate."""
    tls, path = config.cluster.tls, ("cluster", "tls")
    fault = _fault(tls)
    if fault is not None:
        yield (*path, fault[0]), fault[1], False
    if tls.certificate is None:
        return
    at: KeyPath = (*path, "certificate")
    try:
        names, end = certificate_names(Path(tls.certificate).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if fault is None:
            yield at, f"{tls.certificate} is not a certificate: {error}", False
        return
    node = config.node.name
    if not bears(names, node):
        shown = ", ".join(names) or "nothing"
        yield (
            at,
            f"{tls.certificate} names {shown}, and node.name is {node}; give it a subjectAltName "
            "of type DNS with that name",
            False,
        )
    left_s = end - time.time()
    if left_s <= 0:
        yield at, f"{tls.certificate} has expired; renew it and send SIGHUP", False
    elif left_s < _SOON_S:
        yield at, f"{tls.certificate} ends in {int(left_s // 86_400)} days", True


def _fault(tls: ClusterTls) -> tuple[str, str] | None:
    """(key, what is wrong) of files that OpenSSL does not take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=tls.ca)
    except (ssl.SSLError, OSError, ValueError, TypeError):
        return "ca", f"{tls.ca} holds no certificate"
    if tls.certificate is None:
        return None
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        return "key", f"{tls.key} is not the unencrypted key of {tls.certificate}"
    return None
