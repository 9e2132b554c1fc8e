# SPDX-License-Identifier: Apache-2.0
"""Addresses, elements and stanzas of the library: what they tell, and what they refuse."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon import _core
from antiphon._core import Element, Jid, JidError, Stanza
from tests.unit.core.support import needs_library

pytestmark = needs_library

STUB = Path(_core.__file__).with_name("_core.pyi")


def stub_names() -> dict[str, set[str]]:
    """Public names of every class of the stub, and of the module under ''."""
    names: dict[str, set[str]] = {"": set()}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names[""].add(node.name)
            names[node.name] = {
                member.name for member in node.body if isinstance(member, ast.FunctionDef)
            }
        elif isinstance(node, ast.FunctionDef):
            names[""].add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[""].add(node.target.id)
    return names


def test_the_library_has_what_the_stub_says() -> None:
    names = stub_names()
    for name in names.pop(""):
        assert hasattr(_core, name), name
    for owner, members in names.items():
        kind = getattr(_core, owner)
        for member in members - {"__new__"}:
            assert hasattr(kind, member), f"{owner}.{member}"
        public = {name for name in vars(kind) if not name.startswith("_")}
        if not issubclass(kind, Exception):
            assert public <= members, f"{owner} has more than the stub: {public - members}"


@pytest.mark.parametrize(
    ("text", "local", "domain", "resource"),
    [
        ("juliet@example.com", "juliet", "example.com", None),
        ("juliet@example.com/foo bar", "juliet", "example.com", "foo bar"),
        ("example.com", None, "example.com", None),
        ("example.com/foobar", None, "example.com", "foobar"),
        ("JULIET@EXAMPLE.com/Foo", "juliet", "example.com", "Foo"),
        ("a@example.com/b@example.net", "a", "example.com", "b@example.net"),
    ],
)
def test_an_address_tells_its_parts(
    text: str, local: str | None, domain: str, resource: str | None
) -> None:
    jid = Jid(text)  # RFC 7622 §3.5
    assert (jid.local, jid.domain, jid.resource) == (local, domain, resource)
    assert jid.is_bare == (resource is None)
    assert jid.bare == Jid(str(jid).partition("/")[0])
    assert Jid(str(jid)) == jid
    assert hash(Jid(str(jid))) == hash(jid)


@pytest.mark.parametrize(
    "text",
    ["", "@example.com", "juliet@", "juliet@/foo", "example.com/", "a b@example.com", "a@b@c/\0"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(JidError):
        Jid(text)
    assert issubclass(JidError, ValueError)


def test_addresses_are_ordered_by_their_text_and_equal_nothing_else() -> None:
    a, b = Jid("a@x"), Jid("b@x")
    assert sorted([b, a]) == [a, b]
    assert a < b
    assert a != "a@x"
    assert len({a, Jid("A@X"), b}) == 2
    assert a.with_resource("r") == Jid("a@x/r")
    with pytest.raises(JidError):
        a.with_resource("")


@pytest.mark.parametrize("bad", [None, 1, b"a@x"])
def test_an_address_is_made_of_text(bad: object) -> None:
    with pytest.raises(TypeError):
        Jid(bad)  # type: ignore[arg-type]


def test_an_element_tells_what_it_was_made_of() -> None:
    inner = Element("b", "urn:b", {"x": "<&'\">"}, ["text"])
    made = Element("a", "urn:a", {"k": "v"}, ["one ", inner, "two"])
    assert (made.name, made.ns, made.attrs) == ("a", "urn:a", {"k": "v"})
    assert made.text == "one two"
    assert made.children == [inner]
    assert made.find("urn:b", "b") == inner
    assert made.find("urn:a", "b") is None
    assert (made.get("k"), made.get("x"), made.get("x", "d")) == ("v", None, "d")
    assert Element.parse(made.to_bytes()) == made
    assert hash(Element.parse(made.to_bytes())) == hash(made)
    more = made.with_children([Element("c", "urn:c")])
    assert len(more.children) == 2
    assert len(made.children) == 1


def test_what_an_element_gives_out_does_not_change_it() -> None:
    made = Element("a", "urn:a", {"k": "v"})
    made.attrs["k"] = "changed"
    made.children.append(made)
    assert made == Element("a", "urn:a", {"k": "v"})
    for name in ("name", "ns", "attrs"):
        with pytest.raises(AttributeError):
            setattr(made, name, "x")


@pytest.mark.parametrize(
    ("name", "attrs", "children"),
    [
        ("a b", {}, []),
        ("", {}, []),
        ("a:b", {}, []),
        ("1a", {}, []),
        ("a", {"x y": ""}, []),
        ("a", {"x": "\0"}, []),
        ("a", {}, ["\x0b"]),
        ("a", {}, ["\ufffe"]),
    ],
)
def test_what_xml_cannot_hold_is_refused(
    name: str, attrs: dict[str, str], children: list[str]
) -> None:
    with pytest.raises(ValueError):
        Element(name, "urn:a", attrs, children)


@pytest.mark.parametrize(("attrs", "children"), [({"x": 1}, []), ({}, [1]), ({}, [None]), ({}, 5)])
def test_an_element_is_made_of_text_and_elements(attrs: object, children: object) -> None:
    with pytest.raises(TypeError):
        Element("a", "urn:a", attrs, children)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "xml",
    [
        b"",
        b"text",
        b"<a>",
        b"<a/><b/>",
        b"<a xmlns='x'>" + b"x" * (1 << 20) + b"</a>",
        b"<a>" * 300 + b"</a>" * 300,
        b"<!DOCTYPE a><a/>",
        b"<a>&x;</a>",
        b"<a \xff='1'/>",
        b"<p:a/>",
    ],
    ids=range(10),
)
def test_what_is_no_element_is_not_parsed(xml: bytes) -> None:
    with pytest.raises(ValueError):
        Element.parse(xml)


def test_a_default_namespace_can_be_given() -> None:
    assert Element.parse(b"<a><b xmlns=''/></a>", "urn:d").ns == "urn:d"


@pytest.mark.parametrize("kind", ["message", "presence", "iq"])
def test_a_stanza_tells_what_it_was_made_of(kind: str) -> None:
    payload = Element("q", "urn:q", {}, ["x"])
    frm, to = Jid("a@x/r"), Jid("b@x")
    made = Stanza(kind, type="get", id="1", frm=frm, to=to, children=[payload])  # type: ignore[arg-type]
    assert (made.kind, made.type, made.id, made.frm, made.to) == (kind, "get", "1", frm, to)
    assert made.payload == payload
    assert (made.lang, made.session, made.address) == (None, None, None)
    element = made.element
    assert (element.name, element.ns, element.children) == (kind, "jabber:client", [payload])
    assert element.attrs == {"type": "get", "id": "1", "from": "a@x/r", "to": "b@x"}


def test_a_stanza_without_anything_tells_nothing() -> None:
    made = Stanza("message")
    assert (made.type, made.id, made.frm, made.to, made.payload) == (None,) * 5


def test_what_is_no_stanza_is_refused() -> None:
    calls: list[tuple[type[Exception], Callable[[], Stanza]]] = [
        (ValueError, lambda: Stanza("stream")),  # type: ignore[arg-type]
        (ValueError, lambda: Stanza("iq", id="\0")),
        (TypeError, lambda: Stanza("iq", frm="a@x")),  # type: ignore[arg-type]
        (TypeError, lambda: Stanza("iq", children=["text"])),  # type: ignore[list-item]
        (TypeError, lambda: Stanza("iq", "get")),  # type: ignore[call-arg]
    ]
    for error, call in calls:
        with pytest.raises(error):
            call()


def test_the_kinds_of_events_and_actions_differ() -> None:
    for prefix in ("EV_", "ACT_"):
        values = [getattr(_core, name) for name in vars(_core) if name.startswith(prefix)]
        assert len(values) == len(set(values)) >= 6
    for a, b in itertools.pairwise(sorted(_core.OPERATIONS)):
        assert a != b
