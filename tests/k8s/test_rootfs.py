# SPDX-License-Identifier: Apache-2.0
"""The image's file tree runs a node: not as root, on a read-only root, without a shell.

The last two stages of the Dockerfile by hand: the tree is made by the same script from this machine's
Debian, with the application from this checkout, and entered by chroot in a namespace of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.k8s.apiserver import free_ports
from tests.k8s.helm import ROOT

PYTHON = Path("/usr/bin/python3.11")
USER = 10001
START_S = 40

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not PYTHON.exists() or sys.version_info[:2] != (3, 11)
    or shutil.which("unshare") is None,
    reason="needs root and Debian's Python 3.11",
)  # fmt: skip

CONFIG = """
domains = ["localhost"]
data_dir = "/var/lib/antiphon"
[log]
format = "text"
[[listener]]
kind = "c2s"
address = "127.0.0.1:{c2s}"
[[listener]]
kind = "c2s"
address = "127.0.0.1:{direct}"
tls = "direct"
[[listener]]
kind = "http"
address = "127.0.0.1:{health}"
paths = ["/livez", "/readyz"]
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, made as the Dockerfile says."""
    folder = tmp_path_factory.mktemp("image")
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    application = folder / "application"
    shutil.copytree(ROOT / "k8s" / "image", application / "bin")
    library = application / "lib"
    shutil.copytree(
        ROOT / "python" / "antiphon", library / "antiphon",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    installed = Path(sys.prefix) / "lib" / "python3.11" / "site-packages"
    for name in ("anyio", "cassandra", "cassandra_driver.libs", "click", "idna", "msgspec",
                 "starlette", "deprecated", "geomet", "wrapt"):  # fmt: skip
        if (installed / name).is_dir():
            shutil.copytree(installed / name, library / name)
    shutil.copy2(installed / "typing_extensions.py", library)
    made = folder / "root"
    subprocess.run([PYTHON, ROOT / "k8s" / "image" / "rootfs.py", application, made], check=True)
    return made


def command(tree: Path, data: Path, config: Path, *words: str) -> list[str]:
    """A program of the tree as the kubelet would start it; /proc, and three writable places."""
    script = """
        set -e
        root=$1 data=$2 config=$3; shift 3
        mount --bind "$root" "$root"
        mount --bind "$data" "$root/var/lib/antiphon"
        mount --bind "$config" "$root/etc/antiphon"
        mount -t tmpfs -o size=64m tmpfs "$root/tmp"
        mount --bind /proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount -o remount,ro,bind "$root"
        # In the end nothing that it starts can gain a right (allowPrivilegeEscalation: false).
        exec setpriv --no-new-privs chroot --userspec=10001:10001 --groups= "$root" "$@"
    """
    return [
        "unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh",
        str(tree), str(data), str(config), *words,
    ]  # fmt: skip


ENVIRONMENT = {
    "PATH": "/opt/antiphon/bin:/usr/bin:/usr/sbin:/bin:/sbin",
    "PYTHONPATH": "/opt/antiphon/lib",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "ANTIPHON_CONFIG": "/etc/antiphon/antiphon.toml",
}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of data and of the configuration."""
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    data, config = tmp_path / "data", tmp_path / "config"
    data.mkdir(mode=0o700)
    os.chown(data, USER, USER)
    config.mkdir()
    return data, config


def run(tree: Path, places: tuple[Path, Path], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tree, *places, *words), env=ENVIRONMENT, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


@contextmanager
def started(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=ENVIRONMENT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a line of a log."""
    end = time.monotonic() + START_S
    while condition not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_there_is_no_shell_no_package_manager_and_nothing_setuid(tree: Path) -> None:
    programs = {path.name for path in (tree / "usr/bin").iterdir()}
    assert programs == {"python3", "python3.11"}
    assert not (tree / "usr/sbin").exists()
    for path in tree.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            assert not mode & 0o6000, path
            assert not mode & 0o002 or path == tree / "tmp", path
            assert path.stat().st_uid == 0 or path == tree / "var/lib/antiphon", path


def test_the_tree_says_which_packages_it_holds(tree: Path) -> None:
    names = {path.name for path in (tree / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "python3.11-minimal", "libssl3"} <= names


def test_the_command_line_runs(tree: Path, places: tuple[Path, Path]) -> None:
    done = run(tree, places, "antiphon", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("antiphon")


def test_the_root_is_read_only_and_the_user_is_not_root(
    tree: Path, places: tuple[Path, Path]
) -> None:
    code = (
        "import os, pathlib\n"
        "print(os.getuid(), os.getgid(), os.getgroups())\n"
        "for place in ('/', '/opt/antiphon', '/etc', '/usr/bin'):\n"
        "    try: (pathlib.Path(place) / 'x').touch()\n"
        "    except OSError as error: print(place, error.errno)\n"
    )
    done = run(tree, places, "/usr/bin/python3", "-c", code)
    assert done.stdout.split("\n", 1)[0] == f"{USER} {USER} []", done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_a_node_starts_answers_reloads_and_drains(
    tree: Path, places: tuple[Path, Path], tmp_path: Path
) -> None:
    ports = dict(zip(("c2s", "direct", "health"), free_ports(3), strict=True))
    (places[1] / "antiphon.toml").write_text(CONFIG.format(**ports))
    log, told = tmp_path / "node.log", tmp_path / "reload.log"
    with started(command(tree, *places, "antiphon", "serve"), log) as node:
        until("node ready", log, node)
        asked = run(
            tree, places, "answers", f"http://127.0.0.1:{ports['health']}/readyz",
            f"starttls://127.0.0.1:{ports['c2s']}/localhost",
            f"tls://127.0.0.1:{ports['direct']}/localhost",
        )  # fmt: skip
        assert asked.returncode == 0, asked.stdout + asked.stderr
        made = run(tree, places, "antiphon", "account", "create", "a@localhost", "--password", "b")
        assert made.returncode == 0, made.stderr
        words = command(tree, *places, "reload", "--every", "0.2", "/etc/antiphon")
        with started(words, told) as watcher:
            until("watching", told, watcher)
            (places[1] / "antiphon.toml").write_text(CONFIG.format(**ports) + "# changed\n")
            until("told process", told, watcher)
            until("reload", log, node)
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0, log.read_text()
