# SPDX-License-Identifier: Apache-2.0
"""Self-signed certificates for the domains that were given none, made once and kept."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from antiphon._core import certificate_names, self_signed
from antiphon.config.core import CoreHost

log = logging.getLogger(__name__)

FOLDER = "tls"
_RENEW_S = 30 * 24 * 3600
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]")


def with_certificates(hosts: Iterable[CoreHost], data_dir: Path) -> tuple[CoreHost, ...]:
    """The hosts, those without a certificate with the self-signed one of `data_dir/tls`.

    Makes it on first use and anew before it ends. Blocks on the file system. Raises OSError.
    """
    return tuple(
        host if host.certificate is not None else _self_signed(host, data_dir / FOLDER)
        for host in hosts
    )


def _self_signed(host: CoreHost, folder: Path) -> CoreHost:
    name = file_name(host.domain)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if not (_is_good(certificate, host.domain) and key.is_file()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem, secret = self_signed([host.domain])
        _write(key, secret)
        _write(certificate, pem)
        log.info("certificate made", extra={"host": host.domain, "file": str(certificate)})
    return msgspec.structs.replace(host, certificate=str(certificate), key=str(key))


def ascii_form(domain: str) -> str:
    """The domain as DNS and certificates have it."""
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        return domain


def file_name(domain: str) -> str:
    """A file name for a domain, whatever script it is in."""
    name = ascii_form(domain)
    return domain.encode().hex() if _UNSAFE.search(name) else name


def _is_good(certificate: Path, domain: str) -> bool:
    try:
        names, end = certificate_names(certificate.read_text())
    except (OSError, ValueError):
        return False
    return not {domain, ascii_form(domain)}.isdisjoint(names) and end - time.time() > _RENEW_S


def _write(path: Path, text: str) -> None:
    """Readable by nobody else from the first moment; whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
