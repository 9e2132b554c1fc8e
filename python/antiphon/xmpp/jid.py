# SPDX-License-Identifier: Apache-2.0
"""Addresses (RFC 7622), prepared and compared by the Rust core."""

from antiphon._core import Jid, JidError
from antiphon.xmpp.errors import StanzaError

__all__ = ["Jid", "JidError", "parse_jid"]


def parse_jid(text: str | None) -> Jid:
    """The address in this text; raises the stanza error a peer deserves for a bad one.

    Absent: `bad-request`; not an address: `jid-malformed` (RFC 6120 §8.3.3.8).
    """
    if not text:
        raise StanzaError("bad-request", "an address is missing")
    try:
        return Jid(text)
    except JidError as err:
        raise StanzaError("jid-malformed", str(err)) from err
