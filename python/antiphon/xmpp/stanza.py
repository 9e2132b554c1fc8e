# SPDX-License-Identifier: Apache-2.0
"""Stanzas and elements: the core's immutable values, and what handlers build and read them with."""

from typing import Literal
from xml.parsers import expat

from antiphon._core import Element, Stanza
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid

__all__ = ["E", "Element", "Iq", "Session", "Stanza", "language"]

Session = tuple[int, int]
"""A local session as the core names it; opaque here."""


def E(  # noqa: N802 (the name of the builder in every XMPP library)
    name: str, ns: str, /, *children: Element | str | None, **attrs: str | int | None
) -> Element:
    """An element: children in order, attributes by keyword.

    `None` among children and attributes is left out, numbers become text; a trailing underscore of
    an attribute's keyword is dropped (`from_`).
    """
    return Element(
        name,
        ns,
        {key.rstrip("_"): str(value) for key, value in attrs.items() if value is not None},
        [child for child in children if child is not None],
    )


def language(element: Element) -> str | None:
    """The element's own `xml:lang`; the attributes of `Element` are those without a namespace."""
    found: list[str] = []

    def start(_name: str, attrs: dict[str, str]) -> None:
        if not depth:
            found.extend(value for key, value in attrs.items() if key == "xml:lang")
        depth.append(1)

    depth: list[int] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.Parse(element.to_bytes(), True)
    return found[0] if found else None


class Iq:
    """An IQ get or set to a served domain or one of its accounts, as handlers see it.

    A thin view on the core's handle: nothing is converted before it is read.
    """

    __slots__ = ("stanza",)

    def __init__(self, stanza: Stanza) -> None:
        self.stanza = stanza

    @property
    def type(self) -> Literal["get", "set"]:
        """`get` or `set`."""
        return "set" if self.stanza.type == "set" else "get"

    @property
    def frm(self) -> Jid:
        """Who asks. Raises `not-authorized` when nobody has logged in yet (XEP-0077 only)."""
        frm = self.stanza.frm
        if frm is None:
            raise StanzaError("not-authorized")
        return frm

    @property
    def is_before_login(self) -> bool:
        """Whether the request came over a stream that has not authenticated."""
        return self.stanza.frm is None

    @property
    def to(self) -> Jid:
        """Whom it is for; without a `to` the asker's own account (RFC 6120 §10.3.3)."""
        to = self.stanza.to
        return self.frm.bare if to is None else to

    @property
    def is_own(self) -> bool:
        """Whether a user asks his own account."""
        frm = self.stanza.frm
        return frm is not None and frm.bare == self.to.bare

    @property
    def payload(self) -> Element:
        """The one child element."""
        payload = self.stanza.payload
        if payload is None:
            raise StanzaError("bad-request", "the request is empty")
        return payload

    @property
    def lang(self) -> str | None:
        """`xml:lang`, the stream's where the stanza has none."""
        return self.stanza.lang

    @property
    def session(self) -> Session | None:
        """The local session that asks; None for a remote entity or a component."""
        return self.stanza.session

    @property
    def address(self) -> str | None:
        """IP address of the peer, for a request before login."""
        return self.stanza.address
