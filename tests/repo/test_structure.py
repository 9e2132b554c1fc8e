# SPDX-License-Identifier: Apache-2.0
"""What depends on what, and whether the pieces belong together."""

import json
import subprocess
import tomllib
from typing import TypedDict

import pytest

from antiphon import __version__, _core
from antiphon._library import source_digest
from tests.repo.files import ROOT

CRATES: dict[str, set[str]] = {
    "antiphon-xmpp": set(),
    "antiphon-routing": {"antiphon-xmpp"},
    "antiphon-text": set(),
    "antiphon-counting": set(),
    "antiphon-store": {"antiphon-xmpp", "antiphon-routing", "antiphon-text"},
    "antiphon-cluster": {"antiphon-xmpp", "antiphon-routing"},
    "antiphon-net": {"antiphon-xmpp", "antiphon-routing"},
    "antiphon-node": {
        "antiphon-xmpp", "antiphon-routing", "antiphon-store", "antiphon-cluster", "antiphon-net",
        "antiphon-text",
    },
    "antiphon-ext": {"antiphon-xmpp", "antiphon-routing", "antiphon-net", "antiphon-node"},
    "antiphon-load": set(),
}  # fmt: skip
"""Which of our crates each may use."""

IMPURE = {"tokio", "pyo3", "rand", "rusqlite", "rustls", "mio", "socket2", "async-std"}


class Dependency(TypedDict):
    name: str
    kind: str | None


class Package(TypedDict):
    id: str
    name: str
    dependencies: list[Dependency]


class Kind(TypedDict):
    kind: str | None


class Edge(TypedDict):
    pkg: str
    dep_kinds: list[Kind]


class Node(TypedDict):
    id: str
    deps: list[Edge]


class Resolve(TypedDict):
    nodes: list[Node]


class Metadata(TypedDict):
    """The part of `cargo metadata` that is looked at."""

    packages: list[Package]
    resolve: Resolve


@pytest.fixture(scope="module")
def metadata() -> Metadata:
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        done = subprocess.run([*command[:-1]], cwd=ROOT, capture_output=True, check=True)
    document: Metadata = json.loads(done.stdout)
    return document


def direct(metadata: Metadata, crate: str) -> set[str]:
    """Names of a crate's direct dependencies, those of its tests left out."""
    package = next(one for one in metadata["packages"] if one["name"] == crate)
    return {one["name"] for one in package["dependencies"] if one["kind"] != "dev"}


@pytest.mark.parametrize("crate", CRATES)
def test_a_crate_uses_only_crates_below_it(metadata: Metadata, crate: str) -> None:
    ours = {name for name in direct(metadata, crate) if name.startswith("antiphon-")}
    assert ours <= CRATES[crate]


def test_every_crate_has_its_place(metadata: Metadata) -> None:
    ours = {one["name"] for one in metadata["packages"] if one["id"].startswith("path+")}
    assert {name for name in ours if name.startswith("antiphon-")} == set(CRATES)


@pytest.mark.parametrize("crate", ["antiphon-xmpp", "antiphon-routing", "antiphon-text"])
def test_a_pure_crate_reaches_no_runtime_and_no_interpreter(metadata: Metadata, crate: str) -> None:
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    names = {one["id"]: one["name"] for one in metadata["packages"]}
    waiting = [key for key, name in names.items() if name == crate]
    reached: set[str] = set()
    while waiting:
        node = nodes[waiting.pop()]
        for dependency in node["deps"]:
            if all(kind["kind"] == "dev" for kind in dependency["dep_kinds"]):
                continue
            if dependency["pkg"] not in reached:
                reached.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    assert {names[key] for key in reached} & IMPURE == set()


def test_the_compiled_library_is_that_of_these_sources() -> None:
    assert source_digest() == _core.DIGEST, "the library is stale: run `make build`"


def test_there_is_one_version() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert workspace["package"]["version"] == __version__ == _core.VERSION


def test_the_runtime_packages_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / "python" / "requirements.txt").read_text().splitlines()
    assert set(project["dependencies"]) <= set(pinned)


@pytest.mark.parametrize("file", ["python/requirements.txt", "tests/requirements.txt"])
def test_every_package_is_pinned(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#") and "==" not in line] == []
