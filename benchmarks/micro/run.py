# SPDX-License-Identifier: Apache-2.0
"""What the parts cost, each alone, in one table: `make micro`.

    python benchmarks/micro/run.py [xml|routing|store|crossing]...

XML, routing and store are programs of the crates (`rust/*/examples/bench_*.rs`); expat through
Python reads the same message beside our reader; the crossing is `crossing.py`. Processor time, so
that neighbours disturb little; the rates of the store are those of the wall clock and this disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "examples"
STORE_SECONDS = "3"
# As rust/xmpp/examples/bench_reader.rs has it.
MESSAGE = (
    b"<message to='juliet@example.org/balcony' type='chat' id='c2a1f7d0-5b'>"
    b"<body>Wherefore art thou, and what does it cost to carry this line?</body>"
    b"<active xmlns='http://jabber.org/protocol/chatstates'/>"
    b"<request xmlns='urn:xmpp:receipts'/></message>"
)
MESSAGES, REPETITIONS = 20_000, 5


class Row(NamedTuple):
    """One line of the table."""

    what: str
    cpu_ns: str
    rate: str = ""
    allocations: str = ""


def program(crate: str, name: str, *arguments: str) -> list[Row]:
    """The lines of a crate's program. Exits with one line if it does not build or run."""
    build = ["cargo", "build", "--quiet", "--release", "-p", crate, "--example", name]
    if subprocess.run(build, cwd=ROOT, check=False).returncode != 0:
        sys.exit(f"micro: {name} does not build")
    done = subprocess.run(
        [TARGET / name, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"micro: {name} failed")
    return [Row(*line.split("\t")) for line in done.stdout.splitlines()]


def by_expat() -> Row:
    """The same message through Python's expat, with namespaces, one call of Python for each tag."""

    def nothing(*_: object) -> None:
        return

    best_s = float("inf")
    for _ in range(REPETITIONS):
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = parser.EndElementHandler = nothing
        parser.CharacterDataHandler = nothing
        parser.Parse(b"<stream xmlns='jabber:client'>", False)
        start_s = time.thread_time()
        for _ in range(MESSAGES):
            parser.Parse(MESSAGE, False)
        best_s = min(best_s, time.thread_time() - start_s)
    each_ns = best_s / MESSAGES * 1e9
    rate = len(MESSAGE) / each_ns * 1e3
    return Row("expat through Python, one a time", f"{each_ns:.0f}", f"{rate:.0f} MB/s")


def xml() -> list[Row]:
    """Reading and writing a message."""
    return [*program("antiphon-xmpp", "bench_reader"), by_expat()]


def routing() -> list[Row]:
    """Turns of the user entity."""
    return program("antiphon-routing", "bench_user")


def store() -> list[Row]:
    """Group commit of SQLite."""
    return program("antiphon-store", "bench_store", "--tsv", STORE_SECONDS)


def crossing() -> list[Row]:
    """Into Python and back."""
    command = [sys.executable, str(Path(__file__).with_name("crossing.py")), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit("micro: crossing.py failed")
    figures: dict[str, dict[str, float]] = json.loads(done.stdout)
    return [
        Row(f"crossing, {name}, {size} at once", f"{us * 1000:.0f}", f"{1e6 / us:,.0f}/s")
        for name, row in figures.items()
        for size, us in row.items()
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "xml": xml,
    "routing": routing,
    "store": store,
    "crossing": crossing,
}


def main(chosen: list[str]) -> int:
    """Prints the table; 2 for a part that there is not."""
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        print(f"micro: no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
        return 2
    print("| part | what | CPU ns each | rate | allocations |\n|---|---|---:|---:|---:|")
    for name in chosen or PARTS:
        for row in PARTS[name]():
            print(f"| {name} | {' | '.join(row)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
