# SPDX-License-Identifier: Apache-2.0
"""Another build of this repository, for nodes of two versions in one cluster (R2).

`python -m cluster.support.build [COMMIT]` builds it if need be and prints its folder, for the variable
`ANTIPHON_OTHER_BUILD`. Without a commit: the last tag, or where there is none the commit before the
latest that changed what nodes say to each other.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from support.server import ROOT

SPOKEN = (
    "proto/antiphon",
    "rust/cluster/src/codec.rs",
    "rust/cluster/src/link",
    "rust/cluster/src/relay.rs",
    "rust/node/src/mesh/unit",
    "rust/node/src/mesh/unit.rs",
    "rust/routing/src/user/moving.rs",
)
"""What nodes say to each other is written here."""
SOUND = "8100265"
"""Nothing before this one: a release of theirs may double messages, which R2 finds."""
FOLDER = ROOT / ".cache" / "other-build"
LIBRARY = "lib_core.so"


def former() -> str:
    """The last release, else the commit before the latest that changed what nodes say, but none
    before `SOUND`. Raises `CalledProcessError`."""
    tags = _git("tag", "--list", "--merged", "HEAD^", "--sort=-creatordate", "v*").decode().split()
    if tags:
        return tags[0]
    latest = _git("log", "-1", "--format=%H", f"{SOUND}..", "--", *SPOKEN).decode().strip()
    return _git("rev-parse", "--short=12", f"{latest}^" if latest else SOUND).decode().strip()


def other_build(commit: str = "") -> Path:
    """The folder of a build of that commit, with its `python/`; some minutes the first time.

    Raises `CalledProcessError` where it cannot be built.
    """
    name = commit or former()
    folder = FOLDER / name
    library = folder / "python" / "antiphon" / "_core.abi3.so"
    if library.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(_git("archive", name))) as archive:
        archive.extractall(folder, filter="data")
    # What it was built from before is of use for the next.
    target = FOLDER / "target"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "-p", "antiphon-ext"],
        cwd=folder,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    part = library.with_suffix(".tmp")
    part.write_bytes((target / "release" / LIBRARY).read_bytes())
    part.rename(library)
    return folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    print(other_build(*sys.argv[1:2]))
