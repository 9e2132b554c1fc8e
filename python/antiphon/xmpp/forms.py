# SPDX-License-Identifier: Apache-2.0
"""Data forms (XEP-0004), their FORM_TYPE (XEP-0068) and basic validation (XEP-0122)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Self, get_args

from msgspec import Struct

from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid, JidError
from antiphon.xmpp.stanza import E, Element

FormKind = Literal["form", "submit", "cancel", "result"]
FieldKind = Literal[
    "boolean",
    "fixed",
    "hidden",
    "jid-multi",
    "jid-single",
    "list-multi",
    "list-single",
    "text-multi",
    "text-private",
    "text-single",
]
FIELD_KINDS: Final[tuple[str, ...]] = get_args(FieldKind)
MANY: Final = frozenset({"list-multi", "jid-multi", "text-multi", "hidden"})
"""Kinds that take more than one value (XEP-0004 §3.2)."""

MAX_FIELDS: Final = 256
MAX_VALUES: Final = 1_000
MAX_CHARS: Final = 65_536
"""Limits of one submitted form: fields, values of all fields, characters of all values."""


class FormError(StanzaError):
    """A submission that the form does not allow: `not-acceptable` with the field's name (§4)."""

    def __init__(self, var: str, reason: str) -> None:
        super().__init__("not-acceptable", f"{var}: {reason}")
        self.var = var


class Option(Struct, frozen=True):
    """One choice of a list."""

    value: str
    label: str | None = None


class Field(Struct, frozen=True, kw_only=True):
    """One field, in a form to fill out or in a result.

    `datatype` is one of XEP-0122 that we check (`xs:integer`, `xs:string`); `low` and `high` bound
    an integer.
    """

    var: str | None = None
    kind: FieldKind = "text-single"
    label: str | None = None
    values: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    is_required: bool = False
    desc: str | None = None
    datatype: str | None = None
    low: int | None = None
    high: int | None = None

    def to_element(self, with_kind: bool = True) -> Element:
        """`<field/>`; `with_kind` off leaves out the type, as a submission may (§3.2)."""
        validate: Element | None = None
        if self.datatype is not None:
            method = (
                E("basic", ns.DATA_VALIDATE)
                if self.low is None and self.high is None
                else E("range", ns.DATA_VALIDATE, min=self.low, max=self.high)
            )
            validate = E("validate", ns.DATA_VALIDATE, method, datatype=self.datatype)
        return E(
            "field",
            ns.DATA,
            validate,
            E("desc", ns.DATA, self.desc) if self.desc else None,
            E("required", ns.DATA) if self.is_required else None,
            *(E("value", ns.DATA, value) for value in self.values),
            *(
                E("option", ns.DATA, E("value", ns.DATA, option.value), label=option.label)
                for option in self.options
            ),
            var=self.var,
            type=self.kind if with_kind else None,
            label=self.label,
        )

    def check(self, values: Sequence[str]) -> tuple[str, ...]:
        """The submitted values if the field allows them, a JID in its prepared form.

        Raises FormError. No value at all for a field that is not required stays empty.
        """
        var = self.var or ""
        found = tuple(v for v in values if v) if self.kind != "text-multi" else tuple(values)
        if not any(found):
            if self.is_required:
                raise FormError(var, "a value is required")
            return ()
        if len(found) > 1 and self.kind not in MANY:
            raise FormError(var, "only one value is allowed")
        if self.kind == "boolean" and found[0] not in ("0", "1", "true", "false"):
            raise FormError(var, "not a boolean")
        if self.kind in ("list-single", "list-multi"):
            allowed = {option.value for option in self.options}
            if not allowed.issuperset(found):
                raise FormError(var, "not one of the options")
        if self.kind in ("jid-single", "jid-multi"):
            # Duplicates are ignored, compared as prepared (XEP-0004 table 2).
            found = tuple(dict.fromkeys(str(_jid(var, value)) for value in found))
        if self.datatype == "xs:integer":
            for value in found:
                self._check_integer(var, value)
        return found

    def _check_integer(self, var: str, value: str) -> None:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise FormError(var, "not a whole number")
        number = int(value)
        if (self.low is not None and number < self.low) or (
            self.high is not None and number > self.high
        ):
            raise FormError(var, "out of range")


def _jid(var: str, text: str) -> Jid:
    try:
        return Jid(text)
    except JidError as err:
        raise FormError(var, "not an address") from err


class Submission:
    """The values of a submitted form, checked against the form that was given out.

    A field that was left out, or sent without a value, is absent (XEP-0004 §3.5, §3.6).
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values

    def all(self, var: str) -> tuple[str, ...]:
        """Every value of a field."""
        return self._values.get(var, ())

    def text(self, var: str) -> str | None:
        """The value of a field with one, the lines of a `text-multi` joined."""
        values = self._values.get(var, ())
        return "\n".join(values) if values else None

    def flag(self, var: str, default: bool = False) -> bool:
        """A boolean."""
        values = self._values.get(var, ())
        return values[0] in ("1", "true") if values else default

    def jid(self, var: str) -> Jid:
        """An address; raises FormError when absent."""
        values = self._values.get(var, ())
        if not values:
            raise FormError(var, "a value is required")
        return _jid(var, values[0])

    def jids(self, var: str) -> list[Jid]:
        """Addresses, without duplicates."""
        return [_jid(var, value) for value in self._values.get(var, ())]


class Form(Struct, frozen=True, kw_only=True):
    """A form. `rows` with `reported` make a multi-item result (XEP-0004 §3.4).

    `extra` are payloads of other namespaces inside the form (the roster of XEP-0133 §4.8).
    """

    kind: FormKind
    form_type: str | None = None
    title: str | None = None
    instructions: str | None = None
    fields: tuple[Field, ...] = ()
    reported: tuple[Field, ...] = ()
    rows: tuple[tuple[tuple[str, ...], ...], ...] = ()
    extra: tuple[Element, ...] = ()

    def to_element(self) -> Element:
        """`<x xmlns='jabber:x:data'/>`."""
        with_kind = self.kind == "form"
        form_type = (
            Field(var="FORM_TYPE", kind="hidden", values=(self.form_type,)).to_element()
            if self.form_type
            else None
        )
        return E(
            "x",
            ns.DATA,
            E("title", ns.DATA, self.title) if self.title else None,
            E("instructions", ns.DATA, self.instructions) if self.instructions else None,
            form_type,
            *(field.to_element(with_kind or field.kind != "text-single") for field in self.fields),
            E("reported", ns.DATA, *(f.to_element() for f in self.reported))
            if self.reported
            else None,
            *(self._row(row) for row in self.rows),
            *self.extra,
            type=self.kind,
        )

    def _row(self, row: tuple[tuple[str, ...], ...]) -> Element:
        return E(
            "item",
            ns.DATA,
            *(
                Field(var=field.var, values=values).to_element(with_kind=False)
                for field, values in zip(self.reported, row, strict=True)
            ),
        )

    @classmethod
    def parse(cls, element: Element) -> Self:
        """Reads a form of a peer. Raises `bad-request`, or `not-acceptable` above the limits.

        Unknown field types are `text-single` (XEP-0004 table 2). The FORM_TYPE counts in a form or
        result only if its field is hidden (XEP-0068 §4.3).
        """
        kind = element.get("type", "form")
        if element.ns != ns.DATA or element.name != "x" or kind not in get_args(FormKind):
            raise StanzaError("bad-request", "not a data form")
        fields = tuple(_fields(element.children))
        form_type: str | None = None
        for field in fields:
            if field.var == "FORM_TYPE" and (kind == "submit" or field.kind == "hidden"):
                form_type = field.values[0] if field.values else None
        return cls(
            kind=kind,  # type: ignore[arg-type]  # checked above
            form_type=form_type,
            fields=tuple(field for field in fields if field.var != "FORM_TYPE"),
        )

    def submitted(self, element: Element | None) -> Submission:
        """The values a peer submits to this form.

        Fields the form does not have are ignored (XEP-0004 table 1). Raises FormError, or
        `bad-request` for what is no form, or one of another FORM_TYPE.
        """
        if element is None:
            raise StanzaError("bad-request", "the form is missing")
        sent = Form.parse(element)
        if sent.kind not in ("submit", "cancel"):
            raise StanzaError("bad-request", "the form is not a submission")
        if sent.form_type not in (None, self.form_type):
            raise StanzaError("bad-request", "the form has another FORM_TYPE")
        given = {field.var: field.values for field in sent.fields if field.var}
        values: dict[str, tuple[str, ...]] = {}
        for field in self.fields:
            if field.var is None or field.kind == "fixed":
                continue
            checked = field.check(given.get(field.var, ()))
            if checked:
                values[field.var] = checked
        return Submission(values)


def _fields(children: Iterable[Element]) -> Iterable[Field]:
    seen: set[str] = set()
    values_left, chars_left = MAX_VALUES, MAX_CHARS
    for child in children:
        if child.ns != ns.DATA or child.name != "field":
            continue
        var = child.get("var")
        if var is not None and (var in seen or len(seen) >= MAX_FIELDS):
            raise StanzaError("bad-request", "too many fields, or one of them twice")
        values = tuple(v.text for v in child.children if v.ns == ns.DATA and v.name == "value")
        values_left -= len(values)
        chars_left -= sum(map(len, values))
        if values_left < 0 or chars_left < 0:
            raise StanzaError("not-acceptable", "the form is too large")
        if var is None:
            continue
        seen.add(var)
        kind = child.get("type")
        yield Field(
            var=var,
            kind=kind if kind in FIELD_KINDS else "text-single",  # type: ignore[arg-type]
            label=child.get("label"),
            values=values,
        )
