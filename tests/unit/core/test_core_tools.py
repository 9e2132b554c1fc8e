# SPDX-License-Identifier: Apache-2.0
"""Functions of the library that need no node."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
import tomllib
from base64 import b64decode
from pathlib import Path

import pytest

from antiphon import _core, _library
from tests.unit.core.support import needs_library

pytestmark = needs_library

VECTORS = [
    # RFC 5802 §5, RFC 7677 §3: user "user", password "pencil"; the keys follow from §3
    (
        "sha-1",
        "QSXCR+Q6sek8bf92",
        "6dlGYMOdZcOPutkcNY8U2g7vK9Y=",
        "D+CSWLOshSulAsxiupA+qs2/fTE=",
    ),
    (
        "sha-256",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=",
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
    ),
]


@pytest.mark.parametrize(("name", "salt", "stored", "server"), VECTORS)
def test_keys_are_those_of_the_rfcs(name: str, salt: str, stored: str, server: str) -> None:
    keys = _core.derive_keys("pencil", name, b64decode(salt), 4096)
    assert keys == (b64decode(stored), b64decode(server))


@pytest.mark.parametrize("name", ["sha-1", "sha-256", "sha-512", "SHA-256"])
@pytest.mark.parametrize("password", ["pencil", "\u212bngstr\u00f6m", "a\u00a0b", "x" * 500])
def test_keys_are_those_that_python_computes(name: str, password: str) -> None:
    # RFC 8265 §4.2: OpaqueString maps spaces and normalises to NFC
    prepared = password.replace("\u212b", "\u00c5").replace("\u00a0", " ").encode()
    digest = name.lower().replace("-", "")
    salted = hashlib.pbkdf2_hmac(digest, prepared, b"salt", 50)
    client = hmac.digest(salted, b"Client Key", digest)
    expected = hashlib.new(digest, client).digest(), hmac.digest(salted, b"Server Key", digest)
    assert _core.derive_keys(password, name, b"salt", 50) == expected


@pytest.mark.parametrize(
    ("password", "name", "iterations"),
    [("", "sha-256", 1), ("a\0b", "sha-256", 1), ("a", "md5", 1), ("a", "sha-256", 0)],
)
def test_keys_of_nonsense_are_refused(password: str, name: str, iterations: int) -> None:
    with pytest.raises(ValueError):
        _core.derive_keys(password, name, b"salt", iterations)


def test_a_certificate_of_our_own_names_its_domains_and_serves(tmp_path: Path) -> None:
    certificate, key = _core.self_signed(["localhost", "other.example"])
    names, end = _core.certificate_names(certificate)
    assert names == ["localhost", "other.example"]
    assert 9.9 < (end - time.time()) / (365 * 86_400) < 10.1
    (tmp_path / "c").write_text(certificate)
    (tmp_path / "k").write_text(key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "c", tmp_path / "k")


def test_what_no_certificate_can_name_is_refused() -> None:
    with pytest.raises(ValueError):
        _core.self_signed(["b\u00fccher.example"])
    for text in ("", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError):
            _core.certificate_names(text)


DOCUMENT = """\
# a comment
domains = ["a", "b"]
admins = [
  "x@a",
  "y@a",
]

[tls]
certificate = "c.pem"

[[listener]]
kind = "c2s"
[[listener]]
address = "x"

[domain."other.example"]
key = "k"
[modules.push]
options = { a = 1, b = [2] }
"""
POSITIONS = {
    "domains": 2,
    "domains.0": 2,
    "domains.1": 2,
    "admins": 3,
    "admins.0": 4,
    "admins.1": 5,
    "tls": 8,
    "tls.certificate": 9,
    "listener": 11,
    "listener.0": 11,
    "listener.0.kind": 12,
    "listener.1": 13,
    "listener.1.address": 14,
    "domain.other.example": 16,
    "domain.other.example.key": 17,
    "modules.push": 18,
    "modules.push.options": 19,
    "modules.push.options.a": 19,
    "modules.push.options.b": 19,
    "modules.push.options.b.0": 19,
}


@pytest.mark.parametrize("path", POSITIONS)
def test_every_key_and_table_has_its_line(path: str) -> None:
    assert _core.toml_positions(DOCUMENT)[path] == POSITIONS[path]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = ", 1), ("a = 1\nb = = 2\n", 2), ("a = 1\n\na = 2\n", 3), ("[t]\n[t]\n", 2), ("x\0", 1)],
)
def test_what_is_no_toml_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line}: "):
        _core.toml_positions(text)
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)


def tree(root: Path) -> Path:
    """A small checkout."""
    for name, text in {
        "rust/ext/build.rs": "fn main() {}",
        "rust/xmpp/src/lib.rs": "// lib",
        "rust/store/1.sql": "CREATE",
        "rust/fuzz/a.rs": "left out",
        "rust/xmpp/tests/a.rs": "left out",
        "rust/README.md": "left out",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_digest_is_that_of_the_sources(tmp_path: Path) -> None:
    root = tree(tmp_path)
    first = _library.source_digest(root)
    assert first is not None
    assert len(first) == len(_core.DIGEST) == 64
    for name in ("rust/fuzz/a.rs", "rust/xmpp/tests/a.rs", "rust/README.md"):
        (root / name).write_text("changed")
        assert _library.source_digest(root) == first, name
    for name in ("rust/xmpp/src/lib.rs", "rust/store/1.sql", "rust/ext/build.rs"):
        (root / name).write_text("changed")
        assert _library.source_digest(root) != first, name
        first = _library.source_digest(root)
    assert _library.source_digest(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("digest", "is_stale"), [(None, False), (_core.DIGEST, False), ("0" * 64, True)]
)
def test_a_library_of_other_sources_is_stale(
    monkeypatch: pytest.MonkeyPatch, digest: str | None, is_stale: bool
) -> None:
    monkeypatch.setattr(_library, "source_digest", lambda: digest)
    assert _library.is_stale() is is_stale
