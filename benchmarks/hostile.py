# SPDX-License-Identifier: Apache-2.0
"""What hostile connections cost the node, and what they cost the attacker.

    .venv/bin/python benchmarks/hostile.py [--alone | --sustained] [--write] [KIND]...

Two tables: what one connection of each kind costs with the limits out of the way, and what an
address gets by repeating it as fast as it can with the default limits. A well-behaved one stands
beside. Each kind has a node of its own. Python is a slow attacker: where a table says that an
attack costs the same, one in C pays a half to a third.
Prints the tables; a run of all kinds is written to `results/`, one of some kinds with `--write`.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attacker import alone, sustained  # noqa: E402
from attacker.kinds import KINDS  # noqa: E402
from bench import machine  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
Rows = Sequence[alone.Row | sustained.Row]
TABLES = {"alone": alone, "sustained": sustained}


def told(name: str, kinds: Sequence[str]) -> Rows:
    """Measures a table's rows and prints each when it is there."""
    table = TABLES[name]
    print(f"{table.HEAD[0]:<32}" + "".join(f"{cell[:13]:>14}" for cell in table.HEAD[1:-1]))
    rows = []
    for kind in kinds:
        row = table.measure(kind)
        rows.append(row)
        print(f"{kind:<32}" + "".join(f"{cell:>14}" for cell in row.cells[1:-1]), flush=True)
    return rows


def lines_of(name: str, rows: Rows) -> list[str]:
    """A table in Markdown, and how to read it."""
    table = TABLES[name]
    head = [f"| {' | '.join(table.HEAD)} |", "|" + "---|" * len(table.HEAD)]
    return ["", *head, *(f"| {' | '.join(row.cells)} |" for row in rows), "", *table.ABOUT]


def write(measured: dict[str, Rows]) -> None:
    """Tables and figures under `results/`."""
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d-%H%M")
    base = RESULTS / f"{stamp}-{machine.commit()}-hostile"
    about: dict[str, object] = {"machine": machine.describe(), "commit": machine.commit()}
    about |= {name: [asdict(row) for row in rows] for name, rows in measured.items()}
    base.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    lines = [f"# {stamp}, commit {machine.commit()}: hostile connections"]
    for name, rows in measured.items():
        lines += lines_of(name, rows)
    base.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print(f"benchmarks/results/{base.name}.md")


def main(arguments: list[str]) -> int:
    """Prints the tables; 2 for a kind that there is not."""
    chosen = [word for word in arguments if not word.startswith("--")]
    wanted = [word.removeprefix("--") for word in arguments if word.startswith("--")]
    is_written = "--write" in arguments or not chosen
    wanted = [name for name in wanted if name != "write"]
    unknown = [kind for kind in chosen if kind not in KINDS]
    unknown += [name for name in wanted if name not in TABLES]
    if unknown:
        print(f"no such: {', '.join(unknown)}; there are: {', '.join([*TABLES, *KINDS])}")
        return 2
    measured = {name: told(name, chosen or list(KINDS)) for name in wanted or TABLES}
    if is_written:
        write(measured)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
