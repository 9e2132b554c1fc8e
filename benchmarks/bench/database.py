# SPDX-License-Identifier: Apache-2.0
"""A Cassandra for the run: one node, from the jars that `make deps` brings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.server import ServerError

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

# The way into the tests' folder has to be made first.
from support.cassandra import (  # noqa: E402
    Cassandra,
    CassandraFailed,
    CassandraMissing,
    Settings,
)


class Database:
    """Starts with `with`, and goes with its data."""

    def __init__(self, cpu: int | None) -> None:
        """Raises ServerError without jars or Java."""
        try:
            self._ring = Cassandra(Settings(tuned=True, jmx=True, heap_mb=1024))
        except (CassandraMissing, CassandraFailed) as err:
            raise ServerError(str(err)) from err
        self._cpu = cpu

    def __enter__(self) -> Self:
        try:
            self._ring.start()
            if self._cpu is not None:
                command = ["taskset", "-a", "-c", "-p", str(self._cpu), str(self.pid)]
                subprocess.run(command, capture_output=True, check=False)
        except CassandraFailed as err:
            self._ring.close()
            raise ServerError(str(err)) from err
        except BaseException:
            self._ring.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ring.close()

    @property
    def contact_point(self) -> str:
        """`ADDRESS:PORT`."""
        return self._ring.contact_points[0]

    @property
    def pid(self) -> int:
        """Of its process. Raises ServerError if it has ended."""
        pid = self._ring.node(1).pid
        if pid is None:
            raise ServerError("Cassandra has ended")
        return pid

    def size_bytes(self, keyspace: str) -> int:
        """The tables on the disk, compacted. Raises ServerError."""
        try:
            self._ring.nodetool("flush", keyspace)
            self._ring.nodetool("compact", keyspace)
            return self._ring.size_bytes(keyspace)
        except CassandraFailed as err:
            raise ServerError(str(err)) from err
