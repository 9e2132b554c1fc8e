#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S108, S603, S607 - it runs while the image is built, on what stands there
"""Makes the file tree of the image: Debian's Python, what it needs, the application, no more.

No shell, no package manager, no setuid program. Which shared libraries are needed is asked of the
dynamic linker, for the interpreter, its extension modules and those of the application; from which
packages they come is noted where scanners look (/var/lib/dpkg/status.d).

Usage: rootfs.py APPLICATION FOLDER   (as root, on Debian; APPLICATION becomes /opt/antiphon)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = Path("/usr/bin/python3.11")
LIBRARY = Path("/usr/lib/python3.11")
# Parts of Python's library that a server never imports.
LEFT_OUT = {
    "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo", "venv",
    "config-3.11-x86_64-linux-gnu", "config-3.11-aarch64-linux-gnu", "dist-packages",
}  # fmt: skip
USER = 10001
FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/os-release", "/etc/debian_version")
TEXTS = {
    "/etc/passwd": f"root:x:0:0:root:/:/none\nantiphon:x:{USER}:{USER}::/var/lib/antiphon:/none\n",
    "/etc/group": f"root:x:0:\nantiphon:x:{USER}:\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
FOLDERS = {"/tmp": 0o1777, "/proc": 0o555, "/sys": 0o555, "/dev": 0o755, "/etc/antiphon": 0o755}


def libraries(program: Path) -> set[Path]:
    """Shared libraries that the dynamic linker would load, itself included."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    found = set()
    for line in done.stdout.splitlines():
        if "not found" in line:
            sys.exit(f"rootfs: {program} needs what is not installed: {line.strip()}")
        words = line.replace("=>", " ").split()
        found |= {Path(word) for word in words if word.startswith("/")}
    return {path for path in found if "/opt/antiphon/" not in str(path)}


def put(path: Path, root: Path) -> None:
    """Copies a file to the same place below `root`, what a link names under the link's name."""
    target = root / str(path).lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path.resolve(), target)


def package(path: Path) -> str | None:
    """The package of a file; the merged /usr has two names for it."""
    for name in (str(path), str(path.resolve()), str(path.resolve()).removeprefix("/usr")):
        done = subprocess.run(
            ["dpkg-query", "-S", name], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.split(": ")[0].split(",")[0]
    return None


def note(paths: set[Path], root: Path) -> None:
    """Says from which packages the files come, one file for each package."""
    folder = root / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({found for path in paths if (found := package(path)) is not None}):
        done = subprocess.run(
            ["dpkg-query", "-s", name], capture_output=True, text=True, check=True
        )
        (folder / name.split(":")[0]).write_text(done.stdout)


def links(root: Path) -> None:
    """Debian's merged /usr: the linker is asked for below /lib, libraries live below /usr."""
    for name in ("lib", "lib64", "bin"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")


def main(application: Path, root: Path) -> int:
    """Makes the tree."""
    root.mkdir(parents=True)
    links(root)
    put(PYTHON, root)
    (root / "usr/bin/python3").symlink_to(PYTHON.name)
    shutil.copytree(
        LIBRARY, root / str(LIBRARY).lstrip("/"), ignore=lambda _, names: LEFT_OUT & set(names)
    )
    shutil.copytree(application, root / "opt/antiphon", symlinks=True)
    modules = [
        path for place in (LIBRARY / "lib-dynload", application) for path in place.rglob("*.so*")
    ]
    needed = {path for program in (PYTHON, *modules) for path in libraries(program)}
    inside = {path for path in needed if not path.is_relative_to(application)}
    for path in inside:
        put(path, root)
    note({PYTHON, LIBRARY / "json/decoder.py", *inside}, root)
    for name in FILES:
        put(Path(name), root)
    for name, text in TEXTS.items():
        (root / name.lstrip("/")).write_text(text)
    for name, mode in FOLDERS.items():
        folder = root / name.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    data = root / "var/lib/antiphon"
    data.mkdir(parents=True)
    os.chown(data, USER, USER)
    data.chmod(0o700)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).absolute()))
