# SPDX-License-Identifier: Apache-2.0
"""The limits of the style guide, checked, not trusted."""

import ast
import re
from pathlib import Path

import pytest

from tests.repo.files import ROOT, name, tracked

PYTHON = [path for path in tracked("python/antiphon/**.py") if "_gen" not in path.parts]
RUST = tracked("rust/**.rs")
FOLDERS = sorted(
    {path.parent for path in PYTHON} | {ROOT / "rust" / p.parts[len(ROOT.parts) + 1] for p in RUST}
)


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_python_file_has_at_most_500_lines_and_its_functions_60(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_a_python_file_begins_with_its_licence(path: Path) -> None:
    first = path.read_text().split("\n", 1)[0]
    assert first == "# SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_imports_stand_at_the_top_and_in_no_type_checking_block(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = [n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))]
            assert inner == [], f"{node.name} imports"
        if isinstance(node, ast.If):
            assert "TYPE_CHECKING" not in ast.dump(node.test)


def without_tests(text: str) -> str:
    """A Rust file without its test module, which stands last by convention."""
    return text.split("#[cfg(test)]\nmod tests {", maxsplit=1)[0]


@pytest.mark.parametrize(
    "path", [p for p in RUST if not {"tests", "examples"} & {*p.parts, p.stem}], ids=name
)
def test_a_rust_file_has_at_most_800_lines_without_its_tests(path: Path) -> None:
    assert without_tests(path.read_text()).count("\n") <= 800


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_says_what_it_is_for(folder: Path) -> None:
    readme = folder / "README.md"
    if name(folder) == "python/antiphon":
        return
    assert readme.is_file(), "no README.md"
    assert 3 <= len(readme.read_text().splitlines()) <= 60


def test_nothing_points_to_a_machine_or_a_registry() -> None:
    # Split, so that this file does not find itself.
    forbidden = re.compile(
        "|".join(
            [
                "/ro" + "ot/",
                "/wo" + "rk/",
                "registry.np" + "mjs.org",
                "index.crates" + ".io",
                "files.pythonhosted" + ".org",
            ]
        )
    )
    for path in tracked():
        if path.suffix in (".jar", ".pem", ".der") or path.name == "Cargo.lock":
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = forbidden.search(text)
        assert found is None, f"{name(path)}: {found}"


def test_open_ends_name_their_issue() -> None:
    loose = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\()|todo!\(|unimplemented!\(")
    for path in [*PYTHON, *RUST]:
        found = loose.search(path.read_text())
        assert found is None, f"{name(path)}: {found}"
