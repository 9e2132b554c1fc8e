# SPDX-License-Identifier: Apache-2.0
"""Cassandra from the command line, for developers and for tests in other languages.

    python -m support.cassandra fetch                    # the jars of both series, by Maven
    python -m support.cassandra start --port 9042        # until Ctrl-C
    python -m support.cassandra start --keep             # returns; end it with: stop FOLDER
    python -m support.cassandra start --until-eof        # ends with the program at its stdin
    python -m support.cassandra exec -- cargo test …     # ends with the command
    python -m support.cassandra kill FOLDER 2            # also pause, resume, restart, status

`start` writes one line when all nodes serve: `ready`, the contact points with commas between
them, the folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from .install import VERSIONS, CassandraFailed, CassandraMissing, fetch, jars, java
from .ring import Cassandra
from .settings import SYNC, Settings

CONTACT_POINTS = "ANTIPHON_TEST_CASSANDRA"
"""What a command under `exec` finds the contact points in."""
FOLDER = "ANTIPHON_TEST_CASSANDRA_FOLDER"
"""And the folder, to kill and restart nodes."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="support.cassandra",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("fetch", help="bring the jars")
    one.add_argument("versions", nargs="*", default=list(VERSIONS), metavar="VERSION")
    one.add_argument("--check", action="store_true", help="only say by the exit code")
    one = verbs.add_parser("start", help="run a ring")
    _add_settings(one)
    one.add_argument("--folder", type=Path, help="keep the data there (removed at the end)")
    until = one.add_mutually_exclusive_group()
    until.add_argument("--keep", action="store_true", help="return and leave it running")
    until.add_argument("--until-eof", action="store_true", help="run until stdin ends")
    one = verbs.add_parser("exec", help="run a command with a ring")
    _add_settings(one)
    one.add_argument("command", nargs="+")
    for verb, what in (("stop", "end the ring"), ("status", "say how each node is")):
        verbs.add_parser(verb, help=what).add_argument("folder", type=Path)
    for verb in ("kill", "pause", "resume", "restart"):
        one = verbs.add_parser(verb, help=f"{verb} one node")
        one.add_argument("folder", type=Path)
        one.add_argument("node", type=int, nargs="?", default=1)
    one = verbs.add_parser("nodetool", help="needs a ring with --jmx")
    one.add_argument("folder", type=Path)
    one.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    plain = Settings()
    parser.add_argument("--version", default=plain.version, help="5.0, 4.1 or a full version")
    parser.add_argument("--nodes", type=int, default=plain.nodes, choices=(1, 2, 3))
    parser.add_argument("--address", default=plain.address, help="of the first node")
    parser.add_argument("--port", type=int, default=plain.port, help="for CQL (a free one)")
    parser.add_argument("--heap-mb", type=int, default=plain.heap_mb)
    parser.add_argument("--sync", choices=list(SYNC), default=plain.sync)
    parser.add_argument("--volatile", action="store_true", help="quick tables, no restart")
    parser.add_argument("--tuned", action="store_true", help="for measurements")
    parser.add_argument("--jmx", action="store_true", help="allow nodetool")
    parser.add_argument(
        "--java", action="append", default=[], metavar="OPTION", help="of the virtual machine"
    )


def _settings(asked: argparse.Namespace) -> Settings:
    names = ("version", "nodes", "address", "port", "heap_mb", "sync", "volatile", "tuned", "jmx")
    return Settings(**{name: getattr(asked, name) for name in names}, java=tuple(asked.java))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fetch(asked: argparse.Namespace) -> int:
    try:
        java()
        for version in asked.versions:
            jars(version) if asked.check else fetch(version)
    except CassandraMissing:
        if asked.check:
            return 1
        raise
    return 0


def _start(asked: argparse.Namespace) -> int:
    settings = _settings(asked)
    fetch(settings.version)
    ring = Cassandra(settings, asked.folder, outlive=asked.keep)
    try:
        ring.start()
        print("ready", ",".join(ring.contact_points), ring.folder, flush=True)
        if asked.keep:
            return 0
        if asked.until_eof:
            while os.read(0, 4096):
                pass
        else:
            signal.pause()
    except KeyboardInterrupt:
        pass
    except BaseException:
        ring.close()
        raise
    if asked.folder:
        ring.stop()
    ring.close()
    return 0


def _exec(asked: argparse.Namespace) -> int:
    settings = _settings(asked)
    fetch(settings.version)
    with Cassandra(settings) as ring:
        env = {CONTACT_POINTS: ",".join(ring.contact_points), FOLDER: str(ring.folder)}
        return subprocess.run(asked.command, env=os.environ | env, check=False).returncode


def _status(ring: Cassandra) -> int:
    whole = True
    for node in ring.nodes:
        if node.pid is None:
            state = "stopped"
        elif not node.answers():
            state = "silent"
        else:
            state = "ready" if node.sees_all() else "ready, ring not whole"
        whole = whole and state == "ready"
        print(node.place.number, node.contact_point, state)
    return 0 if whole else 1


def main() -> int:
    """Does what the command line says; the exit code."""
    asked = _parser().parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if asked.verb == "fetch":
            return _fetch(asked)
        if asked.verb == "start":
            return _start(asked)
        if asked.verb == "exec":
            return _exec(asked)
        ring = Cassandra.load(asked.folder)
        if asked.verb == "status":
            return _status(ring)
        if asked.verb == "stop":
            ring.stop()
        elif asked.verb == "nodetool":
            print(ring.nodetool(*asked.words), end="")
        else:
            getattr(ring, asked.verb)(asked.node)
    except KeyboardInterrupt:
        return 130
    except (CassandraMissing, CassandraFailed, ValueError) as error:
        print(f"cassandra: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
