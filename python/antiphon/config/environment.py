# SPDX-License-Identifier: Apache-2.0
"""Configuration from the environment: `ANTIPHON_<SECTION>_<KEY>` stands above the file."""

from __future__ import annotations

import contextlib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import get_origin

import msgspec
from msgspec import Struct

from antiphon.config.compose import Field, fields
from antiphon.config.problem import Path, Problem, dotted, nearest

PREFIX = "ANTIPHON_"
CONFIG_FILE = "ANTIPHON_CONFIG"
"""Names the file, as `--config` does; not a key."""

# What an orchestrator sets for every service it knows, ours included: `ANTIPHON_SERVICE_HOST`,
# `ANTIPHON_PORT_5222_TCP_ADDR`. Nobody wrote these, so they are no mistakes.
_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$")


def variable(path: Path) -> str:
    """The variable for a key: `limits.stanza_bytes` is `ANTIPHON_LIMITS_STANZA_BYTES`."""
    return PREFIX + "_".join(str(part) for part in path).upper().replace("-", "_")


def keys(root: type[Struct], document: Mapping[str, object]) -> Iterator[tuple[Path, Field]]:
    """Every key that a variable can set.

    Tables in a list count from 0, and one more than the document has can be added:
    `ANTIPHON_COMPONENT_0_SECRET`. Tables with free names (`[domain]`) are for the file.
    """
    yield from _keys(root, document, ())


def _keys(kind: type[Struct], raw: object, path: Path) -> Iterator[tuple[Path, Field]]:
    table = raw if isinstance(raw, Mapping) else {}
    for one in fields(kind):
        here = (*path, one.name)
        value = table.get(one.name)
        if one.table is not None:
            yield from _keys(one.table, value, here)
        elif one.tables is not None:
            listed = value if isinstance(value, list) else []
            for index in range(len(listed) + 1):
                each = listed[index] if index < len(listed) else None
                yield from _keys(one.tables, each, (*here, index))
        elif one.named_tables is None:
            yield here, one


def apply(
    root: type[Struct], document: dict[str, object], environment: Mapping[str, str]
) -> tuple[dict[str, str], list[Problem]]:
    """Sets in `document` what the environment says.

    The first result maps dotted paths to the variables that set them. A variable that begins with
    the name of a section and names no key of it is a problem; others are somebody else's.
    """
    used: dict[str, str] = {}
    problems: list[Problem] = []
    ours = {key: text for key, text in environment.items() if key.startswith(PREFIX)}
    ours.pop(CONFIG_FILE, None)
    if not ours:
        return used, problems
    known = {variable(path): (path, one) for path, one in keys(root, document)}
    sections = {one.name.upper() for one in fields(root)}
    for name in sorted(ours):
        if name in known:
            path, one = known[name]
            _set(document, path, parse(one, ours[name]))
            used[dotted(path)] = name
        elif _is_ours(name, sections) and not _SERVICE.search(name):
            meant = nearest(name, known)
            hint = f"; did you mean {meant}?" if meant is not None else ""
            problems.append(Problem(f"environment {name}", "", f"sets no known key{hint}"))
    return used, problems


def parse(one: Field, text: str) -> object:
    """The value a text stands for; a text that fits no type is left to the reader's error.

    Lists are comma-separated, or TOML when they begin with `[`.
    """
    if get_origin(one.bare_type) in (list, tuple) or "tuple[" in str(one.bare_type):
        if text.lstrip().startswith("["):
            with contextlib.suppress(tomllib.TOMLDecodeError):
                return tomllib.loads(f"value = {text}")["value"]
        return [part.strip() for part in text.split(",") if part.strip()]
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(text, one.bare_type, strict=False)
    return text


def _is_ours(name: str, sections: set[str]) -> bool:
    rest = name.removeprefix(PREFIX)
    return any(rest == section or rest.startswith(f"{section}_") for section in sections)


def _set(document: dict[str, object], path: Path, value: object) -> None:
    here: object = document
    for part, after in itertools.pairwise(path):
        empty: object = [] if isinstance(after, int) else {}
        if isinstance(here, dict):
            here = here.setdefault(str(part), empty)
        elif isinstance(here, list) and isinstance(part, int):
            if part == len(here):
                here.append(empty)
            here = here[part]
    last = path[-1]
    if isinstance(here, dict):
        here[str(last)] = value
