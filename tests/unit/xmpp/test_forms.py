# SPDX-License-Identifier: Apache-2.0
import pytest

from antiphon._core import Element, Jid
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.forms import (
    MAX_CHARS,
    MAX_FIELDS,
    MAX_VALUES,
    Field,
    FieldKind,
    Form,
    FormError,
    Option,
    Submission,
)
from antiphon.xmpp.stanza import E

FORM_TYPE = "http://example.org/form"


def sent(*fields: Element, type: str = "submit", form_type: str | None = FORM_TYPE) -> Element:
    hidden = field("FORM_TYPE", form_type) if form_type else None
    return E("x", ns.DATA, hidden, *fields, type=type)


def field(var: str, *values: str) -> Element:
    return E("field", ns.DATA, *(E("value", ns.DATA, value) for value in values), var=var)


def form(*fields: Field) -> Form:
    return Form(kind="form", form_type=FORM_TYPE, fields=fields)


def check(kind: FieldKind, *values: str, **given: object) -> Submission:
    one = Field(var="f", kind=kind, **given)  # type: ignore[arg-type]
    return form(one).submitted(sent(field("f", *values)))


def test_a_form_is_written_with_its_types_and_options() -> None:
    written = Form(
        kind="form",
        form_type=FORM_TYPE,
        title="Title",
        instructions="Do it",
        fields=(
            Field(
                var="list",
                kind="list-single",
                label="L",
                desc="D",
                values=("a",),
                options=(Option("a", "A"), Option("b")),
                is_required=True,
            ),
            Field(var="n", datatype="xs:integer", low=1, high=9),
        ),
    ).to_element()
    assert written.get("type") == "form"
    assert [c.name for c in written.children] == [
        "title",
        "instructions",
        "field",
        "field",
        "field",
    ]
    hidden, choice, number = written.children[2:]
    assert (hidden.get("var"), hidden.get("type")) == ("FORM_TYPE", "hidden")
    assert [c.name for c in choice.children] == ["desc", "required", "value", "option", "option"]
    validate = number.find(ns.DATA_VALIDATE, "validate")
    assert validate is not None
    assert validate.children[0].attrs == {"min": "1", "max": "9"}


def test_a_result_of_several_items_repeats_the_reported_fields() -> None:
    # XEP-0004 §3.4
    written = Form(
        kind="result",
        reported=(Field(var="a", label="A"), Field(var="b")),
        rows=((("1",), ("2", "3")), (("4",), ())),
    ).to_element()
    assert [c.name for c in written.children] == ["reported", "item", "item"]
    assert [len(f.children) for f in written.children[1].children] == [1, 2]


def test_values_come_by_their_type() -> None:
    values = form(
        Field(var="text"),
        Field(var="lines", kind="text-multi"),
        Field(var="flag", kind="boolean"),
        Field(var="jid", kind="jid-single"),
        Field(var="jids", kind="jid-multi"),
        Field(var="gone"),
    ).submitted(
        sent(
            field("text", "t"),
            field("lines", "a", "", "b"),
            field("flag", "1"),
            field("jid", "Romeo@montague.example"),
            field("jids", "a@b.example", "A@b.example", "c@b.example"),
            field("unknown", "ignored"),
        )
    )
    assert values.text("text") == "t"
    assert values.text("lines") == "a\n\nb"
    assert values.flag("flag")
    assert values.jid("jid") == Jid("romeo@montague.example")
    assert values.jids("jids") == [Jid("a@b.example"), Jid("c@b.example")]
    assert values.text("gone") is None
    assert not values.flag("gone")
    assert values.text("unknown") is None


@pytest.mark.parametrize(
    ("kind", "values", "given"),
    [
        ("text-single", ["a", "b"], {}),
        ("text-single", [], {"is_required": True}),
        ("text-single", [""], {"is_required": True}),
        ("boolean", ["yes"], {}),
        ("jid-single", ["a@b@"], {}),
        ("jid-multi", ["a@b.example", "@"], {}),
        ("list-single", ["c"], {"options": (Option("a"),)}),
        ("list-multi", ["a", "c"], {"options": (Option("a"),)}),
        ("text-single", ["x"], {"datatype": "xs:integer"}),
        ("text-single", ["-"], {"datatype": "xs:integer"}),
        ("text-single", ["0"], {"datatype": "xs:integer", "low": 1}),
        ("text-single", ["10"], {"datatype": "xs:integer", "high": 9}),
    ],
)
def test_a_value_that_its_field_does_not_allow_is_refused(
    kind: FieldKind, values: list[str], given: dict[str, object]
) -> None:
    with pytest.raises(FormError) as caught:
        check(kind, *values, **given)
    assert caught.value.condition == "not-acceptable"
    assert caught.value.var == "f"


@pytest.mark.parametrize(
    "element",
    [
        None,
        E("x", ns.DATA, type="bogus"),
        E("y", ns.DATA, type="submit"),
        sent(type="form"),
        sent(form_type="http://example.org/other"),
        sent(field("f", "1"), field("f", "2")),
        sent(*(field(str(n)) for n in range(MAX_FIELDS + 1))),
    ],
)
def test_what_is_no_submission_is_a_bad_request(element: Element | None) -> None:
    with pytest.raises(StanzaError, match="bad-request"):
        form(Field(var="f")).submitted(element)


@pytest.mark.parametrize(
    "large", [field("f", *["v"] * (MAX_VALUES + 1)), field("f", "v" * (MAX_CHARS + 1))]
)
def test_a_form_above_the_limits_is_not_acceptable(large: Element) -> None:
    with pytest.raises(StanzaError, match="not-acceptable"):
        form(Field(var="f", kind="text-multi")).submitted(sent(large))


def test_the_form_type_may_be_left_out() -> None:
    values = form(Field(var="f")).submitted(sent(field("f", "1"), form_type=None))
    assert values.text("f") == "1"


def test_a_form_type_that_is_not_hidden_does_not_count_in_a_form() -> None:
    # XEP-0068 §4.3
    assert Form.parse(sent(type="form")).form_type is None
    assert Form.parse(sent(type="submit")).form_type == FORM_TYPE
