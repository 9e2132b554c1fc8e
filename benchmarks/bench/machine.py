# SPDX-License-Identifier: Apache-2.0
"""Where and from what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _line(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def commit() -> str:
    """The short name of the commit; `-dirty` if sources differ from it."""
    name = _line("git", "rev-parse", "--short", "HEAD") or "unknown"
    changed = _line("git", "status", "--porcelain", "--", "rust", "python", "benchmarks/load")
    return f"{name}-dirty" if changed else name


def library() -> str:
    """Whether the compiled core is that of the sources that lie here."""
    command = "from antiphon import _library; print(_library.is_stale())"
    is_stale = _line(sys.executable, "-c", command) != "False"
    return "built from other sources than these" if is_stale else "built from these sources"


def describe() -> dict[str, str | int | float]:
    """Processor, memory, system and compilers: no names of hosts or folders."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": os.cpu_count() or 1,
        "memory_mib": int(memory) // 1024,
        "kernel": platform.release().split("-", maxsplit=1)[0],
        "python": platform.python_version(),
        "rustc": _line("rustc", "--version").removeprefix("rustc ").split(" ", maxsplit=1)[0],
        "core": library(),
        "load_before": round(os.getloadavg()[0], 2),
    }
