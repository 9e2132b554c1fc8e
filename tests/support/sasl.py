# SPDX-License-Identifier: Apache-2.0
"""SCRAM and PLAIN as a client does them (RFC 5802, RFC 7677, RFC 4616), small enough to bend.

Tests override single fields (`gs2`, `cbind`, `nonce`, `extension`) to misbehave on purpose.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


def plain(user: str, password: str, authzid: str = "") -> bytes:
    """The PLAIN message (RFC 4616 §2)."""
    return f"{authzid}\0{user}\0{password}".encode()


def end_point(certificate: bytes) -> bytes:
    """Channel binding data of type tls-server-end-point (RFC 5929 §4.1) for a DER certificate."""
    leaf = x509.load_der_x509_certificate(certificate)
    algorithm = leaf.signature_hash_algorithm
    if algorithm is None or algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return hashlib.new(algorithm.name, certificate).digest()


@lru_cache(maxsize=4096)
def salted(algorithm: str, password: str, salt: bytes, iterations: int) -> bytes:
    """SaltedPassword; remembered, as clients do, so that a login costs no PBKDF2 twice."""
    return hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, iterations)


class ServerSignatureWrong(Exception):
    """The server could not prove that it knows the password."""


@dataclass
class Scram:
    """One SCRAM exchange from the client's side."""

    mechanism: str
    user: str
    password: str
    cb_type: str = ""
    cb_data: bytes = b""
    gs2: str | None = None
    authzid: str = ""
    extension: str = ""
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    cbind: bytes | None = None
    final_nonce: str | None = None
    auth_message: str = ""
    iterations: int = 0
    salt: bytes = b""

    def __post_init__(self) -> None:
        self.algorithm = HASHES[self.mechanism.removesuffix("-PLUS")]

    @property
    def header(self) -> str:
        """gs2-header: the one that was set, or the one that fits the other fields."""
        if self.gs2 is not None:
            return self.gs2
        flag = f"p={self.cb_type}" if self.mechanism.endswith("-PLUS") else "n"
        return f"{flag},{'a=' + self.authzid if self.authzid else ''},"

    def first(self) -> bytes:
        """client-first-message."""
        name = self.user.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"{self.extension}n={name},r={self.nonce}"
        return f"{self.header}{self.bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        """client-final-message for the server's challenge."""
        text = server_first.decode()
        fields = dict(part.split("=", 1) for part in text.split(","))
        assert fields["r"].startswith(self.nonce), "the server changed our nonce"
        assert len(fields["r"]) >= len(self.nonce) + 16, "the server's part of the nonce is short"
        self.salt, self.iterations = b64decode(fields["s"]), int(fields["i"])
        key = salted(self.algorithm, self.password, self.salt, self.iterations)
        client_key = hmac.digest(key, b"Client Key", self.algorithm)
        stored_key = hashlib.new(self.algorithm, client_key).digest()
        bound = self.cbind if self.cbind is not None else self.header.encode() + self.cb_data
        nonce = self.final_nonce if self.final_nonce is not None else fields["r"]
        without_proof = f"c={b64encode(bound).decode()},r={nonce}"
        self.auth_message = f"{self.bare},{text},{without_proof}"
        signature = hmac.digest(stored_key, self.auth_message.encode(), self.algorithm)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_key = hmac.digest(key, b"Server Key", self.algorithm)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Checks the server's proof (`v=…`)."""
        expected = hmac.digest(self._server_key, self.auth_message.encode(), self.algorithm)
        if server_final != b"v=" + b64encode(expected):
            raise ServerSignatureWrong(server_final)
