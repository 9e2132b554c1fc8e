# SPDX-License-Identifier: Apache-2.0
"""Where the pieces of a Cassandra node come from: jars by Maven, and a Java that runs them.

Only the standard library is used here, since `make deps` runs it before there is anything else.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "cassandra"
DEPS = ROOT / "tests" / "deps" / "cassandra"
VERSIONS = {"5.0": "5.0.9", "4.1": "4.1.10"}
"""The release that stands for each series; both are tested."""
JAVA = (17, 11)
"""What both series run on, the preferred one first."""
FETCH_S = 900


class CassandraMissing(Exception):
    """The jars or a Java are not there; the text says what to do."""


class CassandraFailed(Exception):
    """A node did not do what it was asked; the text ends with its log."""


def release(version: str) -> str:
    """The full version that `5.0` or `4.1` stands for; a full one is its own.

    Raises `CassandraMissing` for a series that these tests do not know.
    """
    full = VERSIONS.get(version, version)
    if full.rpartition(".")[0] not in VERSIONS:
        raise CassandraMissing(f"Cassandra {version} is none of {', '.join(VERSIONS)}")
    return full


def jars(version: str) -> Path:
    """The folder with the jars of a release.

    Raises `CassandraMissing` where they have not been fetched; never uses the network.
    """
    folder = CACHE / release(version)
    if not folder.is_dir():
        raise CassandraMissing(f"Cassandra {release(version)} is missing: run `make deps`")
    return folder


def fetch(version: str) -> Path:
    """The same, fetched by Maven where it is not there; two that fetch at once wait.

    Raises `CassandraMissing` with the end of Maven's output.
    """
    full = release(version)
    folder = CACHE / full
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise CassandraMissing(f"Maven is missing, which brings Cassandra {full}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        part = CACHE / f"{full}.part"
        shutil.rmtree(part, ignore_errors=True)
        command = [maven, "-q", "-B", "-f", str(DEPS / "pom.xml")]
        command += [f"-Dcassandra.version={full}", f"-DoutputDirectory={part}"]
        command += ["-DincludeScope=runtime", "dependency:copy-dependencies"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
        if done.returncode != 0 or not any(part.glob("jamm-*.jar")):
            raise CassandraMissing(f"Maven brings no Cassandra {full}: {done.stdout[-2000:]}")
        part.rename(folder)
    return folder


@cache
def java() -> Path:
    """A Java 17, else an 11: that of CASSANDRA_JAVA_HOME, JAVA_HOME, the path, or beside it.

    Cassandra 5.0 starts on no later one: it sets a security manager. Raises `CassandraMissing`.
    """
    homes = [
        Path(os.environ[key]) for key in ("CASSANDRA_JAVA_HOME", "JAVA_HOME") if key in os.environ
    ]
    default = shutil.which("java")
    if default is not None:
        homes.append(Path(default).resolve().parents[1])
    for folder in {home.parent for home in homes} | {Path("/usr/lib/jvm")}:
        if folder.is_dir():
            homes += sorted(folder.iterdir())
    found: dict[int, Path] = {}
    for home in homes:
        binary = home / "bin" / "java"
        if binary.is_file():
            found.setdefault(_feature(binary), binary)
    for feature in JAVA:
        if feature in found:
            return found[feature]
    raise CassandraMissing("Cassandra needs Java 17 or 11: install one or set CASSANDRA_JAVA_HOME")


def _feature(binary: Path) -> int:
    """The feature release of a Java; 0 for what is none."""
    said = subprocess.run(
        [str(binary), "-version"], capture_output=True, text=True, timeout=60, check=False
    )
    match = re.search(r'version "(\d+)', said.stderr)
    return int(match[1]) if match else 0
