# SPDX-License-Identifier: Apache-2.0
"""The schema for people and tools: commented example, JSON schema, reference page."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct

from antiphon.config.build import allowed
from antiphon.config.compose import Field, Options, compose, fields
from antiphon.config.environment import variable
from antiphon.config.problem import Path, dotted

_HEAD = """\
# Antiphon's configuration: `antiphon.toml` in the working directory, or --config FILE.
# Every key is shown with its default; what is commented out has none or need not be set.
# File names are relative to this file. ANTIPHON_<SECTION>_<KEY> in the environment stands above it.
"""

# What the example shows where there is no default, or where the default says little.
_SAMPLES: Mapping[str, object] = {
    "domains": ["localhost"],
    "admins": ["admin@localhost"],
    "node.name": "a",
    "node.zone": "zone-1",
    "node.resume_location": "a.example.org:5222",
    "cluster.advertise": "a.nodes.example",
    "tls.certificate": "cert.pem",
    "tls.key": "key.pem",
    "auth.client_ca": "users-ca.pem",
    "http.websocket_url": "wss://{domain}/ws",
    "listener.kind": "c2s",
    "listener.address": "127.0.0.1:5222",
    "listener.tls": "starttls",
    "listener.paths": ["/ws", "/.well-known/host-meta"],
    "modules.disable": ["carbons"],
    "storage.cassandra.local_datacenter": "dc1",
    "storage.cassandra.replication": ["dc1:3"],
    "storage.cassandra.user": "antiphon",
    "storage.cassandra.password": "secret",
    "storage.cassandra.password_file": "cassandra.password",
    "storage.cassandra.ca": "cassandra-ca.pem",
    "storage.cassandra.certificate": "antiphon.pem",
    "storage.cassandra.key": "antiphon.key",
    "cluster.etcd.user": "antiphon",
    "cluster.etcd.password": "secret",
    "cluster.etcd.password_file": "etcd.password",
    "component.secret": "secret",
    "component.domain": "gateway.localhost",
    "component.secret_file": "gateway.secret",
    "domain.certificate": "other.pem",
    "domain.key": "other.key",
    "domain.admins": ["admin@other.example"],
    "cluster.etcd.ca": "etcd-ca.pem",
    "cluster.etcd.certificate": "etcd.pem",
    "cluster.etcd.key": "etcd.key",
    "cluster.tls.ca": "cluster-ca.pem",
    "cluster.tls.certificate": "node.pem",
    "cluster.tls.key": "node.key",
}


def json_schema(options: Options) -> str:
    """The JSON schema (2020-12) of the file, for editors."""
    document = msgspec.json.schema(compose(options))
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "antiphon.toml",
        **document,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def example(options: Options) -> str:
    """A configuration file with every key, its description, and its default commented in."""
    lines = [_HEAD.rstrip()]
    lines += ["", *_example_table(compose(options), ())]
    return "\n".join(lines) + "\n"


def _example_table(kind: type[Struct], path: Path, *, is_optional: bool = False) -> Iterator[str]:
    """The lines of a table; all commented out when `is_optional`."""
    later: list[Field] = []
    mark = "# " if is_optional else ""
    for one in fields(kind):
        if one.table or one.tables or one.named_tables:
            later.append(one)
            continue
        here = (*path, one.name)
        sample = _SAMPLES.get(dotted(here))
        value = one.default if _is_shown(one.default) else sample
        has_default = _is_shown(one.default) and dotted(here) != "node.name"
        note = " ".join(part for part in (one.description, _choices(one)) if part)
        yield from textwrap.wrap(note, 98, initial_indent="# ", subsequent_indent="# ")
        shown = _toml(sample if dotted(here) == "node.name" else value)
        yield f"{mark}{one.name} = {shown}" if has_default else f"# {one.name} = {shown}"
    for one in later:
        yield ""
        yield from _example_section(one, (*path, one.name), is_optional=is_optional)


def _example_section(one: Field, path: Path, *, is_optional: bool) -> Iterator[str]:
    if (table := one.tables) is not None:
        yield f"# {_summary(table)}"
        yield f"# [[{dotted(path)}]]"
        yield from _example_table(table, path, is_optional=True)
    elif (table := one.named_tables) is not None:
        yield f"# {_summary(table)}"
        yield f'# [{dotted(path)}."other.example"]'
        yield from _example_table(table, path, is_optional=True)
    elif (table := one.table) is not None:
        if path[0] == "domain":
            yield "# Any option of [modules] can stand below the domain, too:"
            yield '# [domain."other.example".modules]'
            yield '# disable = ["register"]'
            return
        yield f"# {_summary(table)}"
        yield f"{'# ' if is_optional else ''}[{dotted(path)}]"
        yield from _example_table(table, path, is_optional=is_optional)


def reference(options: Options) -> str:
    """The page `docs/reference/configuration.md`."""
    lines = [
        "# Configuration reference",
        "",
        "Generated by `make docs` from the schema in `python/antiphon/config/schema.py` and the",
        "features' own sections; do not edit. One TOML file, `antiphon.toml` in the working",
        "directory or `--config FILE`; file names in it are relative to its folder. A variable",
        "`ANTIPHON_<SECTION>_<KEY>` in the environment stands above the file; lists are",
        "comma-separated there, and tables of a list are counted from 0",
        "(`ANTIPHON_COMPONENT_0_SECRET`). A key that ends in `_file` names a file whose content is",
        "the secret.",
        "",
        "`antiphon config example` prints a commented file, `antiphon config schema` a JSON schema",
        "for editors, and `antiphon check` tells what is wrong, with file, line and key.",
    ]
    lines += _reference_table("Top level", compose(options), ())
    return "\n".join(lines) + "\n"


def _reference_table(title: str, kind: type[Struct], path: Path) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield _summary(kind)
    rows = [one for one in fields(kind) if not (one.table or one.tables or one.named_tables)]
    if rows:
        yield ""
        yield "| key | type | default | what it does |"
        yield "| --- | --- | --- | --- |"
    for one in rows:
        default = "required" if one.is_required else f"`{_toml(one.default)}`"
        if one.default in (None, ""):
            default = "required" if one.is_required else "none"
        if dotted((*path, one.name)) == "node.name":
            default = "the host name"
        cell = " ".join(part for part in (one.description, _choices(one)) if part)
        yield f"| `{one.name}` | {_type(one)} | {default} | {_cell(cell)} |"
    for one in fields(kind):
        here = (*path, one.name)
        if (table := one.tables) is not None:
            yield from _reference_table(f"`[[{dotted(here)}]]`", table, here)
        elif (table := one.named_tables) is not None:
            yield from _reference_table(f'`[{dotted(here)}."name"]`', table, here)
        elif (table := one.table) is not None and path[:1] != ("domain",):
            yield from _reference_table(f"`[{dotted(here)}]`", table, here)
    if path[:1] == ("domain",):
        yield ""
        yield (
            'Any key of `[modules]` can be set for one domain: `[domain."name".modules]` and '
            '`[domain."name".modules.FEATURE]`.'
        )
    elif rows and len(path) == 1 and path[0] not in ("listener", "component"):
        yield ""
        yield f"In the environment: `{variable((*path, rows[0].name))}` and so on."


def _summary(kind: type[Struct]) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]


def _choices(one: Field) -> str:
    words = allowed(one.bare_type)
    return f"One of {', '.join(words)}." if words else ""


def _type(one: Field) -> str:
    text = str(one.bare_type)
    if allowed(one.bare_type):
        return "word"
    for mark, name in (("tuple", "list"), ("list", "list"), ("bool", "boolean"), ("int", "number")):
        if mark in text:
            return name
    if "float" in text:
        return "number"
    return "file" if one.kind == "path" else "text"


def _is_shown(default: object) -> bool:
    return default is not None and default is not msgspec.NODEFAULT and default not in ((), "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _toml(value: object) -> str:
    """A value as TOML writes it; an absent one as an empty string."""
    if value is None or value is msgspec.NODEFAULT:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    return json.dumps(str(value), ensure_ascii=False)
