# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the values of `antiphon._core`, where the library has not been built.

They take the same arguments and keep the same promises as far as unit tests look; preparation of
addresses is plain lower-casing.
"""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr


class JidError(ValueError):
    """See the stub."""


class ConfigError(ValueError):
    """See the stub."""


class Jid:
    """See the stub."""

    __slots__ = ("_domain", "_local", "_resource")

    def __init__(self, text: str) -> None:
        bare, slash, resource = text.partition("/")
        local, at, domain = bare.rpartition("@")
        if not domain or (slash and not resource) or (at and not local):
            raise JidError(f"{text!r} lacks a part")
        if any(c in local for c in " \"&'/:<>@") or any(c in domain for c in " @/"):
            raise JidError(f"{text!r} holds a forbidden character")
        if any(len(part.encode()) > 1023 for part in (local, domain, resource)):
            raise JidError("a part is too long")
        self._local = local.lower() or None
        self._domain = domain.lower()
        self._resource = resource or None

    @property
    def local(self) -> str | None:
        return self._local

    @property
    def domain(self) -> str:
        return self._domain

    @property
    def resource(self) -> str | None:
        return self._resource

    @property
    def bare(self) -> Jid:
        return Jid(str(self).partition("/")[0])

    @property
    def is_bare(self) -> bool:
        return self._resource is None

    def with_resource(self, resource: str) -> Jid:
        return Jid(f"{self.bare}/{resource}")

    def __str__(self) -> str:
        local = f"{self._local}@" if self._local else ""
        resource = f"/{self._resource}" if self._resource else ""
        return f"{local}{self._domain}{resource}"

    def __repr__(self) -> str:
        return f"Jid({str(self)!r})"

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Jid) and str(self) == str(other)

    def __lt__(self, other: Jid) -> bool:
        return str(self) < str(other)


class Element:
    """See the stub."""

    __slots__ = ("_attrs", "_children", "name", "ns")

    def __init__(
        self,
        name: str,
        ns: str,
        attrs: Mapping[str, str] | None = None,
        children: Sequence[Element | str] = (),
    ) -> None:
        self.name = name
        self.ns = ns
        self._attrs = dict(attrs or {})
        self._children = list(children)
        for child in self._children:
            if not isinstance(child, Element | str):
                raise TypeError(f"{child!r} is no child")

    @property
    def attrs(self) -> dict[str, str]:
        return {key: value for key, value in self._attrs.items() if ":" not in key}

    @property
    def text(self) -> str:
        return "".join(child for child in self._children if isinstance(child, str))

    @property
    def children(self) -> list[Element]:
        return [child for child in self._children if isinstance(child, Element)]

    def get(self, name: str, default: str | None = None) -> str | None:
        return self.attrs.get(name, default)

    def find(self, ns: str, name: str) -> Element | None:
        return next((c for c in self.children if (c.ns, c.name) == (ns, name)), None)

    def with_children(self, children: Sequence[Element | str]) -> Element:
        return Element(self.name, self.ns, self._attrs, [*self._children, *children])

    def to_bytes(self) -> bytes:
        return self._text(None).encode()

    def _text(self, default: str | None) -> str:
        xmlns = f" xmlns={quoteattr(self.ns)}" if self.ns != default else ""
        attrs = "".join(f" {key}={quoteattr(value)}" for key, value in self._attrs.items())
        inner = "".join(
            escape(child) if isinstance(child, str) else child._text(self.ns)
            for child in self._children
        )
        end = f">{inner}</{self.name}>" if inner else "/>"
        return f"<{self.name}{xmlns}{attrs}{end}"

    @staticmethod
    def parse(xml: bytes, default_ns: str = "") -> Element:
        return _element(ET.fromstring(xml), default_ns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return self.to_bytes().decode()


def _element(tree: ET.Element, default_ns: str) -> Element:
    ns, _, name = tree.tag.rpartition("}")
    attrs = {key.replace(XML, "xml:"): value for key, value in tree.attrib.items()}
    children: list[Element | str] = [tree.text] if tree.text else []
    for child in tree:
        children.append(_element(child, default_ns))
        if child.tail:
            children.append(child.tail)
    return Element(name, ns.lstrip("{") or default_ns, attrs, children)


class Stanza:
    """See the stub."""

    def __init__(
        self,
        kind: str,
        *,
        type: str | None = None,
        id: str | None = None,
        frm: Jid | None = None,
        to: Jid | None = None,
        children: Sequence[Element] = (),
    ) -> None:
        self.kind = kind
        self.type = type
        self.id = id
        self.frm = frm
        self.to = to
        self.lang: str | None = None
        self.session: tuple[int, int] | None = None
        self.address: str | None = None
        self._children = list(children)

    @property
    def payload(self) -> Element | None:
        return self._children[0] if self._children else None

    @property
    def element(self) -> Element:
        attrs = {"type": self.type, "id": self.id, "from": self.frm, "to": self.to}
        given = {key: str(value) for key, value in attrs.items() if value is not None}
        return Element(self.kind, "jabber:client", given, self._children)


class HttpRequest:
    """See the stub."""

    def __init__(self, method: str = "GET", path: str = "/") -> None:
        self.method = method
        self.path = path
        self.query = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.peer = "127.0.0.1"
        self.is_secure = False


XML = "{http://www.w3.org/XML/1998/namespace}"

EVENTS = ("EV_IQ", "EV_RESULT", "EV_FAILED", "EV_HTTP", "EV_LOG", "EV_CAPS")
ACTIONS = (
    "ACT_REPLY",
    "ACT_FAIL",
    "ACT_SEND",
    "ACT_CALL",
    "ACT_HTTP",
    "ACT_REQUEST",
    "ACT_CAPS",
)

OPERATIONS = (
    "roster.get",
    "roster.set",
    "roster.remove",
    "block.list",
    "block.add",
    "block.remove",
    "carbons.set",
    "presence.may_see",
    "activity.last",
    "sessions.list",
    "sessions.all",
    "sessions.count",
    "sessions.kick",
    "account.exists",
    "account.create",
    "account.password",
    "account.put",
    "account.put_keys",
    "account.delete",
    "account.enable",
    "account.state",
    "account.list",
    "account.count",
    "account.verify",
    "map.get",
    "map.put",
    "map.keys",
    "offline.count",
    "node.stats",
)


def install() -> None:
    """Puts the stand-ins in place of `antiphon._core`, unless the library is there."""
    try:
        import antiphon._core  # noqa: F401, PLC0415
    except ImportError:
        pass
    else:
        return
    module = types.ModuleType("antiphon._core")
    names = [*EVENTS, *ACTIONS]
    vars(module).update({name: number for number, name in enumerate(names)})
    for value in (Jid, JidError, ConfigError, Element, Stanza, HttpRequest):
        setattr(module, value.__name__, value)
    vars(module).update(OPERATIONS=OPERATIONS, DIGEST="", VERSION="0")
    sys.modules["antiphon._core"] = module
