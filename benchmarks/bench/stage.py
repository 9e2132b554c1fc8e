# SPDX-License-Identifier: Apache-2.0
"""What all servers of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.server import Place, Ports, Server


@dataclass(frozen=True)
class Stage:
    """Folder, certificate, ports, and the programs that load and fill."""

    folder: Path
    certificate: Path
    key: Path
    ports: Ports
    is_pinned: bool
    load: Path
    """The generator."""
    fill: Path
    """What fills a store."""
    words: Path
    """What messages are made of, see `bench.text`."""
    made: list[Server] = field(default_factory=list)
    """Every server so far, so that none outlives the run."""

    def server(self, kind: type[Server], *, is_pinned: bool = True) -> Server:
        """A server in a folder of its own, not started. Raises ServerError without ports."""
        port = self.ports.take()
        cpu = 0 if self.is_pinned and is_pinned else None
        folder = self.folder / f"{kind.name}-{port}"
        server = kind(Place(folder, self.certificate, self.key, port, cpu))
        self.made.append(server)
        return server
