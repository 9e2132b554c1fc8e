# SPDX-License-Identifier: Apache-2.0
"""Rules over the Dockerfile, as a linter would have them, and the programs of the image."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.k8s.helm import CHART, ROOT

FILE = ROOT / "Dockerfile"
RELOAD = ROOT / "k8s" / "image" / "reload"


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each, continued lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
        for line in joined.splitlines()
        if line.strip()
    ]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def test_the_last_stage_is_empty_but_for_the_tree_and_runs_nothing() -> None:
    stage = last_stage()
    assert stage[0] == ("FROM", "scratch")
    assert [word for word, _ in stage if word in ("RUN", "ADD", "SHELL", "VOLUME")] == []
    copied = [rest for word, rest in stage if word == "COPY"]
    assert copied == ["--from=tree /rootfs/ /"]


def test_the_image_does_not_run_as_root() -> None:
    users = [rest for word, rest in last_stage() if word == "USER"]
    assert users == ["10001:10001"]
    values = (CHART / "values.yaml").read_text()
    assert "runAsUser: 10001" in values


def test_programs_are_started_without_a_shell() -> None:
    for word, rest in instructions():
        if word in ("ENTRYPOINT", "CMD"):
            assert rest.startswith("["), rest


def test_every_base_has_a_version_and_every_package_list_is_removed() -> None:
    given = dict(rest.split("=") for word, rest in instructions() if word == "ARG")
    assert all(given.values())
    for word, rest in instructions():
        if word == "FROM" and not rest.startswith("scratch"):
            assert re.search(r":\S*(\$\{\w+\}|\d)", rest), rest
            assert "latest" not in rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word == "RUN" and "pip install" in rest:
            assert rest.count("pip install") == rest.count("--no-cache-dir")


def test_no_step_uses_what_is_not_copied() -> None:
    """The context holds only what .dockerignore lets in."""
    allowed = {
        line[1:].strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == one or source.startswith(f"{one}/") for one in allowed), source


def test_every_member_of_the_workspace_is_copied() -> None:
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY"]
    for member in members:
        assert any(member == one or member.startswith(f"{one}/") for one in copied), member


def test_what_build_scripts_and_sources_read_is_copied() -> None:
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY"]
    for script in ROOT.glob("rust/*/build.rs"):
        for found in re.findall(r'"\.\./\.\./(\w+)', script.read_text()):
            assert found in copied, f"{script.relative_to(ROOT)} reads {found}"


def test_the_chart_is_of_the_version_of_the_server() -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    chart = (CHART / "Chart.yaml").read_text()
    assert re.findall(r"^appVersion: (.*)$", chart, re.MULTILINE) == [version]


def test_the_schema_of_the_values_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "k8s" / "helm" / "schema.py", "--check"], check=False
    )
    assert done.returncode == 0, "run `make docs`"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A program that looks like a node and writes what it is told to a file."""
    program = tmp_path / "antiphon"
    program.write_text(
        "import pathlib, signal, sys\n"
        "log = pathlib.Path(sys.argv[2])\n"
        "signal.signal(signal.SIGHUP, lambda *_: log.write_text(log.read_text() + 'HUP '))\n"
        "log.write_text('')\n"
        "while True: signal.pause()\n"
    )
    return program


def test_the_reloader_tells_a_node_when_a_secret_is_replaced(node: Path, tmp_path: Path) -> None:
    """As Kubernetes does it: a link to a new folder takes the place of the old one."""
    log, secret, excluded = tmp_path / "told", tmp_path / "etc" / "tls", tmp_path / "etc" / "no"
    secret.mkdir(parents=True)
    excluded.mkdir()
    for number in (1, 2):
        (secret / f"..{number}").mkdir()
        (secret / f"..{number}" / "tls.crt").write_text(f"certificate {number}")
    (secret / "..data").symlink_to("..1")
    (secret / "tls.crt").symlink_to("..data/tls.crt")
    program = subprocess.Popen([sys.executable, str(node), "serve", str(log)])
    command = [
        sys.executable,
        str(RELOAD),
        "--every",
        "0.1",
        "--but",
        str(excluded),
        str(tmp_path / "etc"),
    ]
    watcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert watcher.stderr is not None
        assert "watching" in watcher.stderr.readline()
        while not log.exists():
            time.sleep(0.02)
        (excluded / "password").write_text("changed")
        time.sleep(0.4)
        assert log.read_text() == ""
        (secret / "..new").symlink_to("..2")
        (secret / "..new").rename(secret / "..data")
        assert str(program.pid) in watcher.stderr.readline()
        for _ in range(100):
            if "HUP" in log.read_text():
                break
            time.sleep(0.02)
        assert log.read_text() == "HUP "
        watcher.terminate()
        assert watcher.wait(5) == 0
    finally:
        for process in (program, watcher):
            process.kill()
            process.wait()
