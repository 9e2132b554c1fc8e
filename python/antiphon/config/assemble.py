# SPDX-License-Identifier: Apache-2.0
"""Converted keys to `Config`: defaults filled in, the overrides of domains laid over the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

import msgspec
from msgspec import Struct

from antiphon.config import schema
from antiphon.config.build import Given
from antiphon.config.compose import Options, fields
from antiphon.config.problem import Origin, Path, Problem

S = TypeVar("S", bound=Struct)


class Assembler:
    """Makes structs; a struct that refuses its values (`__post_init__`) becomes a problem."""

    def __init__(self, options: Options, origin: Origin) -> None:
        self.problems: list[Problem] = []
        self._options = options
        self._origin = origin

    def config(self, given: Given) -> schema.Config:
        """The whole configuration."""
        rest = {key: value for key, value in given.items() if key not in ("modules", "domain")}
        empty = schema.Modules(
            options={name: kind() for name, kind in self._options.items() if kind is not None}
        )
        modules = self._modules(_table(given.get("modules", {})), empty, ("modules",))
        domains: dict[str, schema.Domain] = {}
        for name, raw in _table(given.get("domain", {})).items():
            own = dict(_table(raw))
            if "modules" in own:
                path: Path = ("domain", name, "modules")
                own["modules"] = self._modules(_table(own["modules"]), modules, path)
            domains[name] = schema.Domain(**own)  # type: ignore[arg-type]  # checked by the reader
        return self._struct(schema.Config, {**rest, "modules": modules, "domain": domains}, ())

    def _struct(self, kind: type[S], given: Given, path: Path) -> S:
        known = {one.name: one for one in fields(kind)}
        values: Given = {}
        for key, value in given.items():
            one = known[key]
            if one.table is not None and isinstance(value, Mapping):
                value = self._struct(one.table, dict(value), (*path, key))
            elif one.tables is not None and isinstance(value, list):
                table = one.tables
                value = tuple(self._struct(table, each, (*path, n)) for n, each in enumerate(value))
            values[key] = value
        return self._made(kind(), values, path) if _has_defaults(kind) else kind(**values)

    def _modules(self, given: Given, base: schema.Modules, path: Path) -> schema.Modules:
        options = dict(base.options)
        for name, raw in given.items():
            if name != "disable":
                options[name] = self._made(options[name], _table(raw), (*path, name))
        disable = cast("tuple[str, ...]", given.get("disable", base.disable))
        return schema.Modules(disable=disable, options=options)

    def _made(self, base: S, values: Given, path: Path) -> S:
        attributes = {one.encode_name: one.name for one in msgspec.structs.fields(base)}
        try:
            return msgspec.structs.replace(
                base, **{attributes[key]: value for key, value in values.items()}
            )
        except ValueError as error:
            self.problems.append(self._origin.problem(path, str(error)))
            return base


def _has_defaults(kind: type[Struct]) -> bool:
    return not any(one.required for one in msgspec.structs.fields(kind))


def _table(value: object) -> Given:
    return dict(value) if isinstance(value, Mapping) else {}
