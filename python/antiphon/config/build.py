# SPDX-License-Identifier: Apache-2.0
"""A parsed document to values: every mistake is collected, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from antiphon.config.compose import Field, compose, fields
from antiphon.config.problem import Origin, Path, Problem, choices, dotted, nearest

Given = dict[str, object]
"""The keys that a table sets, converted; tables in it are `Given` again."""

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "datetime": "a date and time",
    "date": "a date",
    "time": "a time",
}
_TYPE = re.compile(r"`([^`]+)`")
_INNER = re.compile(r" - at `\$(?:\[(\d+)\])?.*`$")


class Reader:
    """Reads one document against a composed schema."""

    def __init__(self, root: type[Struct], origin: Origin, base: FilePath) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._origin = origin
        self._base = base

    def read(self, document: Mapping[str, object]) -> Given:
        """Everything of the document that is right; `problems` has the rest."""
        return self._table(self._root, document, ())

    def fault(self, path: Path, text: str) -> None:
        """Notes a mistake."""
        self.problems.append(self._origin.problem(path, text))

    def _table(self, kind: type[Struct], raw: object, path: Path) -> Given:
        if not isinstance(raw, Mapping):
            self.fault(path, f"expected a table, got {_kind_of(raw)}")
            return {}
        known = {one.name: one for one in fields(kind)}
        given: Given = {}
        for key, value in raw.items():
            one = known.get(key)
            if one is None:
                self._unknown(key, known, (*path, key))
                continue
            is_good, converted = self._value(one, value, (*path, key))
            if is_good:
                given[key] = converted
        for one in known.values():
            if one.is_required and one.name not in raw:
                self.fault((*path, one.name), "is missing; this table needs it")
        self._secrets(known, given, path)
        return given

    def _value(self, one: Field, value: object, path: Path) -> tuple[bool, object]:
        """(whether it is right, the converted value)."""
        if (table := one.table) is not None:
            return True, self._table(table, value, path)
        if (table := one.tables) is not None:
            if not isinstance(value, list):
                self.fault(
                    path, f"expected tables, written [[{dotted(path)}]], got {_kind_of(value)}"
                )
                return False, None
            return True, [self._table(table, each, (*path, n)) for n, each in enumerate(value)]
        if (table := one.named_tables) is not None:
            if not isinstance(value, Mapping):
                self.fault(path, f"expected a table, got {_kind_of(value)}")
                return False, None
            return True, {
                name: self._table(table, each, (*path, name)) for name, each in value.items()
            }
        try:
            converted = msgspec.convert(value, one.full_type)
        except msgspec.ValidationError as error:
            self._ill_typed(one, value, path, str(error))
            return False, None
        if one.kind == "path" and isinstance(converted, str):
            converted = str(self._base / FilePath(converted).expanduser())
        return True, converted

    def _unknown(self, key: str, known: Mapping[str, Field], path: Path) -> None:
        meant = nearest(key, known)
        if meant is None:
            elsewhere = {dotted(place).rpartition(".")[2]: place for place in places(self._root)}
            far = nearest(key, elsewhere, 0.8)
            meant = dotted(elsewhere[far]) if far is not None else None
        if meant is not None:
            self.fault(path, f"unknown key; did you mean {meant}?")
        else:
            self.fault(path, f"unknown key; valid here: {choices(known)}")

    def _ill_typed(self, one: Field, value: object, path: Path, message: str) -> None:
        inner = _INNER.search(message)
        if inner is not None and inner[1] is not None:
            path = (*path, int(inner[1]))
        words = allowed(one.bare_type)
        if words and isinstance(value, str):
            meant = nearest(value, words)
            hint = f"; did you mean {meant}?" if meant is not None else ""
            self.fault(path, f'"{value}" is not {choices(words)}{hint}')
            return
        if one.rule is not None and "regex" in message:
            self.fault(path, f"expected {one.rule}")
            return
        text = _INNER.sub("", message)
        text = _TYPE.sub(lambda found: _words(found[1]), text)
        self.fault(path, text[:1].lower() + text[1:])

    def _secrets(self, known: Mapping[str, Field], given: Given, path: Path) -> None:
        """`password_file` fills `password`."""
        for key in [key for key in given if key.endswith("_file")]:
            target = key.removesuffix("_file")
            file = given[key]
            if target not in known or not isinstance(file, str):
                continue
            if given.get(target) is not None:
                self.fault((*path, key), f"both {target} and {key} are set; keep one")
                continue
            try:
                given[target] = FilePath(file).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                self.fault((*path, key), f"cannot read {file}: {reason}")


def places(root: type[Struct], path: Path = ()) -> Iterable[Path]:
    """The path of every key that is not in a list of tables or a table with a free name."""
    for one in fields(root):
        yield (*path, one.name)
        if one.table is not None:
            yield from places(one.table, (*path, one.name))


def allowed(kind: object) -> tuple[str, ...]:
    """The words of a `Literal` (also of `Literal | None`); none for other types."""
    if get_origin(kind) is Literal:
        return tuple(str(word) for word in get_args(kind))
    for arg in get_args(kind):
        if get_origin(arg) is Literal:
            return allowed(arg)
    return ()


def _kind_of(value: object) -> str:
    for kind, words in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if isinstance(value, kind):
            return _WORDS[words]
    return _WORDS["array" if isinstance(value, list) else "object"]


def _words(types: str) -> str:
    parts = [_WORDS.get(part.strip(), part.strip()) for part in types.split("|")]
    return choices(part for part in parts if part != "nothing")


__all__ = ["Given", "Reader", "allowed", "compose", "places"]
