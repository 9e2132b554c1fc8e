# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path
from typing import get_args

import pytest

from antiphon._core import Element, Stanza
from antiphon.xmpp import ns
from antiphon.xmpp.errors import ERROR_TYPES, USUAL_TYPES, Condition, StanzaError
from antiphon.xmpp.stanza import E

RUST = Path(__file__).parents[3] / "rust/xmpp/src"
ENTRY = re.compile(r'^\s+\w+ = "([a-z-]+)", (\w+);', re.MULTILINE)
CONSTANT = re.compile(r'^pub const (\w+): &str =\s+"([^"]+)";', re.MULTILINE)


def test_conditions_and_their_types_equal_those_of_rust() -> None:
    source = (RUST / "stanza.rs").read_text()
    rust = [(name, kind.lower()) for name, kind in ENTRY.findall(source)]
    assert rust == list(USUAL_TYPES.items())


def test_the_literal_of_conditions_is_the_table() -> None:
    assert get_args(Condition) == tuple(USUAL_TYPES)


def test_namespaces_that_both_sides_name_are_equal() -> None:
    rust = dict(CONSTANT.findall((RUST / "ns.rs").read_text()))
    both = [name for name in vars(ns) if name in rust]
    assert len(both) >= 10
    assert [getattr(ns, name) for name in both] == [rust[name] for name in both]


def test_an_error_has_the_usual_type_of_its_condition() -> None:
    error = StanzaError("forbidden")
    assert (error.condition, error.type, error.text, error.app) == ("forbidden", "auth", None, None)
    assert set(USUAL_TYPES.values()) <= set(ERROR_TYPES)


@pytest.mark.parametrize(
    ("condition", "type_", "expected"),
    [
        ("conflict", None, ("conflict", "cancel")),
        ("conflict", "wait", ("conflict", "wait")),
        ("conflict", "bogus", ("conflict", "cancel")),
        ("unheard-of", None, ("undefined-condition", "cancel")),
    ],
)
def test_an_error_by_name_keeps_to_the_defined_ones(
    condition: str, type_: str | None, expected: tuple[str, str]
) -> None:
    error = StanzaError.named(condition, "why", type_)
    assert (error.condition, error.type) == expected
    assert error.text == "why"


def _error_stanza(*children: Element) -> Stanza:
    return Stanza("iq", type="error", id="1", children=list(children))


def test_the_error_of_a_stanza_is_read_behind_the_payload() -> None:
    # RFC 6120 §8.3.1 lets the payload stand before the error.
    stanza = _error_stanza(
        E("query", ns.LAST),
        E(
            "error",
            ns.CLIENT,
            E("gone", ns.STANZA_ERRORS, "xmpp:romeo@afterlife.example"),
            E("text", ns.STANZA_ERRORS, "moved"),
            type="modify",
        ),
    )
    error = StanzaError.of_stanza(stanza)
    assert (error.condition, error.type, error.text) == ("gone", "modify", "moved")


def test_an_error_stanza_without_an_error_is_undefined() -> None:
    assert StanzaError.of_stanza(_error_stanza()).condition == "undefined-condition"
