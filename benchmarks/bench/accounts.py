# SPDX-License-Identifier: Apache-2.0
"""The accounts that every server gets, and what SCRAM stores of their password."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

DOMAIN = "localhost"
PASSWORD = "bench"
# What Prosody and Antiphon do unless told otherwise.
ITERATIONS = 10_000
CONTACTS = 50


@dataclass(frozen=True)
class Accounts:
    """u0, u1, ...: first those without contacts, then the befriended.

    The befriended stand in a ring; each has a mutual subscription with the 25 before it and the 25
    after it, as `antiphon-load presence` expects.
    """

    lonely: int
    befriended: int = 0

    @property
    def names(self) -> list[str]:
        """Localparts, in order."""
        return [f"u{number}" for number in range(self.lonely + self.befriended)]

    def contacts(self, name: str) -> list[str]:
        """Localparts of a user's contacts; nothing for the lonely."""
        number = int(name[1:]) - self.lonely
        if number < 0:
            return []
        half = CONTACTS // 2
        steps = [step for step in range(-half, half + 1) if step]
        return [f"u{self.lonely + (number + step) % self.befriended}" for step in steps]


@dataclass(frozen=True)
class Keys:
    """RFC 5802 §3, with SHA-256."""

    salt: str
    stored: bytes
    server: bytes


def keys(salt: str) -> Keys:
    """What is stored for the password of all accounts."""
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt.encode(), ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    return Keys(salt, hashlib.sha256(client).digest(), server)
