# SPDX-License-Identifier: Apache-2.0
"""The configuration of a node from its file, the environment and the files with secrets."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from antiphon._core import toml_positions
from antiphon.config import check, environment
from antiphon.config.assemble import Assembler
from antiphon.config.build import Reader
from antiphon.config.compose import Options, compose
from antiphon.config.problem import ConfigProblems, Origin, Problem
from antiphon.config.schema import Config

DEFAULT_FILE = "antiphon.toml"
"""Read from the working directory when no file is named; it need not exist."""

_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


@dataclass(frozen=True)
class Loaded:
    """A configuration that holds together, and where it came from."""

    config: Config
    origin: Origin
    warnings: tuple[Problem, ...]


def load(file: str | None, options: Options, variables: Mapping[str, str] | None = None) -> Loaded:
    """Reads and checks everything.

    `file` None means `antiphon.toml` if there is one, else the embedded defaults. `options` are
    the features and their sections; `variables` the environment. Blocks on the file system.

    Raises ConfigProblems with every mistake found.
    """
    name, text = _text(file)
    document, positions = _document(name, text)
    root = compose(options)
    tree = copy.deepcopy(document)
    used, problems = environment.apply(root, tree, variables or {})
    tree.setdefault("data_dir", "data")  # the default, too, is relative to the file
    origin = Origin(name, positions, used)
    base = FilePath(name).parent if name is not None else FilePath()
    reader = Reader(root, origin, base)
    given = reader.read(tree)
    problems += reader.problems
    if problems:
        raise ConfigProblems(_in_order(problems))
    assembler = Assembler(options, origin)
    config = assembler.config(given)
    found = [*assembler.problems, *check.problems(config, origin, options)]
    errors = [problem for problem in found if not problem.is_warning]
    if errors:
        raise ConfigProblems(_in_order(errors))
    return Loaded(config, origin, tuple(found))


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line)


def _text(file: str | None) -> tuple[str | None, str]:
    """(name of the file or None, its text)."""
    name = file if file is not None else DEFAULT_FILE
    if file is None and not FilePath(name).exists():
        return None, ""
    try:
        return name, FilePath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigProblems([Problem(name, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigProblems([Problem(name, "", "is not UTF-8 text")]) from error


def _document(name: str | None, text: str) -> tuple[dict[str, object], Mapping[str, int]]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = _AT_LINE.search(message)
        line = int(at[1]) if at is not None else text.count("\n") + 1
        reason = _AT_LINE.sub("", message).replace(" (at end of document)", "")
        where = f"{name}:{line}"
        raise ConfigProblems(
            [Problem(where, "", f"not valid TOML: {reason[:1].lower()}{reason[1:]}")]
        ) from error
    try:
        return document, toml_positions(text)
    except ValueError:
        # The two parsers judge a document differently: the values hold, the lines are not known.
        return document, {}
