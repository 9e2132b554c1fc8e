# SPDX-License-Identifier: Apache-2.0
"""The schema with the features' own sections in it, as one struct type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from antiphon.config import schema

Options = Mapping[str, type[Struct] | None]
"""Every feature by name, with the struct of its options if it has some."""


@dataclass(frozen=True)
class Field:
    """One key of a table."""

    name: str
    bare_type: object
    """Without `Annotated` around it."""
    full_type: object
    description: str
    kind: str | None
    """`path` or `secret`."""
    rule: str | None
    """What its pattern asks for, in words."""
    is_required: bool
    default: object

    @property
    def table(self) -> type[Struct] | None:
        """The struct, if the value is a table."""
        return struct_of(self.bare_type)

    @property
    def tables(self) -> type[Struct] | None:
        """The struct, if the value is a list of tables."""
        args = get_args(self.bare_type)
        is_list = get_origin(self.bare_type) in (list, tuple) and bool(args)
        return struct_of(args[0]) if is_list else None

    @property
    def named_tables(self) -> type[Struct] | None:
        """The struct, if the value is a table of tables with free names."""
        args = get_args(self.bare_type)
        return struct_of(args[1]) if get_origin(self.bare_type) is dict and len(args) == 2 else None


def struct_of(kind: object) -> type[Struct] | None:
    """The struct in `S`, `Annotated[S, ...]` or `S | None`."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return kind
    for arg in get_args(kind) if get_origin(kind) not in (list, tuple, dict) else ():
        if isinstance(arg, type) and issubclass(arg, Struct):
            return arg
    return None


def fields(kind: type[Struct]) -> Iterator[Field]:
    """The keys of a table, in the order of their declaration."""
    for one in msgspec.structs.fields(kind):
        metas = [arg for arg in get_args(one.type)[1:] if isinstance(arg, Meta)]
        is_annotated = get_origin(one.type) is Annotated
        extra = next((meta.extra for meta in metas if meta.extra), None) or {}
        default = one.default
        if one.default_factory is not msgspec.NODEFAULT:
            default = one.default_factory()
        yield Field(
            name=one.encode_name,
            bare_type=get_args(one.type)[0] if is_annotated else one.type,
            full_type=one.type,
            description=next((meta.description for meta in metas if meta.description), ""),
            kind=extra.get("kind"),
            rule=extra.get("rule"),
            is_required=one.required,
            default=default,
        )


def compose(options: Options) -> type[Struct]:
    """`schema.Config` whose `modules` (everywhere) has one table for each feature with options."""
    tables: list[Any] = [("disable", _declared(schema.Modules, "disable"), ())]
    for name in sorted(options):
        kind = options[name]
        if kind is not None:
            tables.append((_attribute(name), kind, msgspec.field(default_factory=kind, name=name)))
    modules = _defined("Modules", schema.Modules, tables)
    domain = _with(schema.Domain, {"modules": (modules | None, None)})
    return _with(
        schema.Config,
        {
            "domain": (dict[str, domain], msgspec.field(default_factory=dict)),  # type: ignore[valid-type]
            "modules": (modules, msgspec.field(default_factory=modules)),
        },
    )


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _declared(kind: type[Struct], name: str) -> object:
    return next(one.type for one in msgspec.structs.fields(kind) if one.name == name)


def _with(kind: type[Struct], changed: Mapping[str, tuple[object, object]]) -> type[Struct]:
    """The same struct with other types for some fields."""
    declared: list[Any] = []
    for one in msgspec.structs.fields(kind):
        if one.name in changed:
            declared.append((one.name, *changed[one.name]))
        elif one.default_factory is not msgspec.NODEFAULT:
            factory = msgspec.field(default_factory=one.default_factory)
            declared.append((one.name, one.type, factory))
        elif one.required:
            declared.append((one.name, one.type))
        else:
            declared.append((one.name, one.type, one.default))
    return _defined(kind.__name__, kind, declared)


def _defined(name: str, like: type[Struct], declared: list[Any]) -> type[Struct]:
    return msgspec.defstruct(
        name,
        declared,
        kw_only=True,
        frozen=True,
        forbid_unknown_fields=True,
        namespace={"__doc__": like.__doc__},
    )
