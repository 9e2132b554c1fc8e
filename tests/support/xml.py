# SPDX-License-Identifier: Apache-2.0
"""Elements as tests write and read them, and the expat reader behind the test client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Union
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from . import ns

Node = Union["Element", str]


class Element:
    """One XML element: name, namespace, attributes, children (elements and text)."""

    __slots__ = ("attrs", "children", "name", "ns")

    def __init__(self, name: str, namespace: str, attrs: dict[str, str]) -> None:
        self.name = name
        self.ns = namespace
        self.attrs = attrs
        self.children: list[Node] = []

    # -- reading ---------------------------------------------------------
    def __iter__(self) -> Iterator[Element]:
        return (c for c in self.children if isinstance(c, Element))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True

    def get(self, attr: str) -> str | None:
        """The attribute's value; `xml:lang` by that name, others in a namespace as `{ns}name`."""
        return self.attrs.get(attr)

    def child(self, name: str, namespace: str | None = None) -> Element | None:
        """The first child of that name (and namespace; the element's own when left out)."""
        wanted = self.ns if namespace is None else namespace
        return next((c for c in self if c.name == name and c.ns == wanted), None)

    def at(self, *path: str | tuple[str, str]) -> Element:
        """The descendant at `path` of names or (name, namespace); fails the test when absent."""
        here = self
        for step in path:
            name, namespace = (step, None) if isinstance(step, str) else step
            found = here.child(name, namespace)
            assert found is not None, f"no <{name}/> in {here}"
            here = found
        return here

    def all(self, name: str, namespace: str | None = None) -> list[Element]:
        """Every child of that name, in order."""
        wanted = self.ns if namespace is None else namespace
        return [c for c in self if c.name == name and c.ns == wanted]

    def has(self, name: str, namespace: str | None = None) -> bool:
        """Whether there is such a child."""
        return self.child(name, namespace) is not None

    @property
    def text(self) -> str:
        """The element's own text, children left out."""
        return "".join(c for c in self.children if isinstance(c, str))

    @property
    def tag(self) -> tuple[str, str]:
        """(name, namespace)."""
        return self.name, self.ns

    # -- stanzas ---------------------------------------------------------
    @property
    def frm(self) -> str | None:
        """The `from` address."""
        return self.attrs.get("from")

    @property
    def to(self) -> str | None:
        """The `to` address."""
        return self.attrs.get("to")

    @property
    def id(self) -> str | None:
        """The stanza's id."""
        return self.attrs.get("id")

    @property
    def type(self) -> str | None:
        """The stanza's type as written; `None` where the sender gave none."""
        return self.attrs.get("type")

    @property
    def payload(self) -> Element | None:
        """The first child element that is not the error."""
        return next((c for c in self if c.tag != ("error", self.ns)), None)

    @property
    def body(self) -> str | None:
        """The text of `<body/>`, `None` without one."""
        found = self.child("body")
        return None if found is None else found.text

    @property
    def condition(self) -> str | None:
        """The defined condition of a stanza error, a stream error or a SASL failure."""
        if self.tag == ("error", ns.STREAM):
            return next((c.name for c in self if c.ns == ns.STREAMS and c.name != "text"), None)
        if self.tag == ("failure", ns.SASL):
            return next((c.name for c in self if c.ns == ns.SASL and c.name != "text"), None)
        error = self if self.name == "error" else self.child("error")
        if error is None:
            error = self
        return next((c.name for c in error if c.ns == ns.STANZAS and c.name != "text"), None)

    @property
    def error_type(self) -> str | None:
        """The stanza error's type: cancel, modify, auth, wait or continue."""
        error = self.child("error")
        return None if error is None else error.get("type")

    # -- writing ---------------------------------------------------------
    def xml(self, parent_ns: str | None = None) -> str:
        """The element as text; `xmlns` is written where it differs from the parent's."""
        out = ["<", self.name]
        if self.ns != parent_ns:
            out.append(f" xmlns={quoteattr(self.ns)}")
        out.extend(f" {k}={quoteattr(v)}" for k, v in self.attrs.items())
        if not self.children:
            out.append("/>")
            return "".join(out)
        out.append(">")
        out.extend(escape(c) if isinstance(c, str) else c.xml(self.ns) for c in self.children)
        out.append(f"</{self.name}>")
        return "".join(out)

    def canonical(self) -> tuple[object, ...]:
        """A value equal for equal trees, whatever the prefixes and attribute order."""
        children: list[object] = []
        text = ""
        for c in self.children:
            if isinstance(c, str):
                text += c
                continue
            if text:
                children.append(text)
                text = ""
            children.append(c.canonical())
        if text:
            children.append(text)
        return (self.ns, self.name, tuple(sorted(self.attrs.items())), tuple(children))

    def __str__(self) -> str:
        return self.xml()

    __repr__ = __str__


def E(  # noqa: N802  as in the style guide, it stands for an element
    name: str, namespace: str | None = None, /, *children: Node | None, **attrs: object
) -> Element:
    """Builds an element: `E("ping", ns.PING)`, `E("item", None, E("group", None, "g"), jid=jid)`.

    Without a namespace it takes the parent's once it is put into one, `jabber:client` when it
    is sent as it is. Trailing underscores of attribute names go (`from_`), `xml_lang` becomes
    `xml:lang`; `None` values are left out.
    """
    named = {
        ("xml:lang" if k == "xml_lang" else k.rstrip("_")): str(v)
        for k, v in attrs.items()
        if v is not None
    }
    element = Element(name, namespace or "", named)
    for c in children:
        if c is not None:
            element.children.append(c)
    _adopt(element)
    return element


def _adopt(element: Element) -> None:
    for c in element:
        if c.ns == "" and element.ns != "":
            c.ns = element.ns
            _adopt(c)


def body(text: str) -> Element:
    """A message body."""
    return E("body", None, text)


def message(to: str | None, /, *children: Node | None, **attrs: object) -> Element:
    """A message; a plain string among the children becomes its body."""
    wrapped = [body(c) if isinstance(c, str) else c for c in children]
    return E("message", ns.CLIENT, *wrapped, to=to, **attrs)


def presence(*children: Node | None, **attrs: object) -> Element:
    """A presence stanza."""
    return E("presence", ns.CLIENT, *children, **attrs)


def iq(kind: str, payload: Element | None = None, /, **attrs: object) -> Element:
    """An IQ stanza."""
    return E("iq", ns.CLIENT, payload, type=kind, **attrs)


class Reader:
    """An expat reader of one stream, or of whole documents when `framed`."""

    def __init__(
        self,
        on_open: Callable[[Element], None],
        on_element: Callable[[Element], None],
        on_close: Callable[[], None],
    ) -> None:
        self._on_open, self._on_element, self._on_close = on_open, on_element, on_close
        self._stack: list[Element] = []
        self._expat = expat.ParserCreate(namespace_separator="\n")
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._text

    def feed(self, octets: bytes) -> None:
        """Reads on; raises `expat.ExpatError` for what is not well-formed."""
        self._expat.Parse(octets, False)

    @staticmethod
    def _split(name: str) -> tuple[str, str]:
        namespace, sep, local = name.rpartition("\n")
        return (namespace, local) if sep else ("", name)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, local = self._split(name)
        attrs = {}
        for key, value in attributes.items():
            attr_ns, attr = self._split(key)
            if attr_ns == ns.XML:
                attr = f"xml:{attr}"
            elif attr_ns:
                attr = f"{{{attr_ns}}}{attr}"
            attrs[attr] = value
        element = Element(local, namespace, attrs)
        if not self._stack:
            self._on_open(element)
        elif len(self._stack) > 1:
            self._stack[-1].children.append(element)
        self._stack.append(element)

    def _end(self, _name: str) -> None:
        element = self._stack.pop()
        if not self._stack:
            self._on_close()
        elif len(self._stack) == 1:
            self._on_element(element)

    def _text(self, text: str) -> None:
        if len(self._stack) > 1:
            self._stack[-1].children.append(text)


def parse(document: str | bytes) -> Element:
    """One whole document as an element."""
    found: list[Element] = []
    reader = Reader(lambda _: None, found.append, lambda: None)
    reader.feed(b"<document>")
    reader.feed(document if isinstance(document, bytes) else document.encode())
    reader.feed(b"</document>")
    return found[0]
