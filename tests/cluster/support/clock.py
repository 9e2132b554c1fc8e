# SPDX-License-Identifier: Apache-2.0
"""A wall clock that is off, for one process."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def off_by(seconds: float, folder: Path) -> dict[str, str]:
    """Variables for a process whose clock is that much ahead; the library is built in `folder`."""
    library = folder / "clock.so"
    command = [os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(SOURCE), "-ldl"], check=True, capture_output=True)
    return {"LD_PRELOAD": str(library), "ANTIPHON_CLOCK_MS": str(round(seconds * 1000))}
