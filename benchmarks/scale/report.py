# SPDX-License-Identifier: Apache-2.0
"""The model's answers as Markdown, and the check against a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scale.inputs import Inputs, InputsError
from scale.model import GIB, KIB, MIB, Sizing, hop_us, hops

TOLERANCE = 0.35
"""A model of a few lines; the busy two processors of a test machine are no node either."""


def amount(value: float, *units: tuple[float, str]) -> str:
    """Three digits in the largest unit that fits."""
    for factor, name in units:
        if value >= factor:
            return f"{value / factor:.3g} {name}".strip()
    factor, name = units[-1]
    return f"{value / factor:.3g} {name}".strip()


BYTES = ((1e15, "PB"), (1e12, "TB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1.0, "B"))
BITS = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
COUNTS = ((1e6, "M"), (1e3, "k"), (1.0, ""))
TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))


def rows(found: Sequence[Sizing]) -> list[tuple[str, list[str]]]:
    """A line for each answer, a cell for each size."""
    return [
        ("nodes", [f"{s.nodes:,}" for s in found]),
        ("decided by", [s.bound_by for s in found]),
        ("sessions of a node", [amount(s.sessions_each, *COUNTS) for s in found]),
        ("memory of a node", [amount(s.memory_each_bytes, *BYTES) for s in found]),
        ("memory of all", [amount(s.memory_each_bytes * s.nodes, *BYTES) for s in found]),
        ("processors in use, of a node", [f"{s.processors_each:.2g}" for s in found]),
        ("messages a second", [amount(s.messages_per_s, *COUNTS) for s in found]),
        ("relay, out of a node", [amount(s.relay_each_bit_s, *BITS) for s in found]),
        ("streams of a node to others", [f"{s.links_each:,}" for s in found]),
        ("processors for idle links", [f"{s.link_processors_each:.2g}" for s in found]),
        ("etcd: keepalives a second", [f"{s.etcd_keepalives_per_s:.3g}" for s in found]),
        ("etcd: writes a second", [f"{s.etcd_writes_per_s:.2g}" for s in found]),
        ("etcd: stored", [amount(s.etcd_bytes, *BYTES) for s in found]),
        ("a node dies: homes answer after", [amount(s.rebuild_s, *TIMES) for s in found]),
        ("… announced by each other node", [amount(s.rebuild_bytes_each, *BYTES) for s in found]),
        (
            "… its clients are back (CPU alone)",
            [amount(s.logins_s, *TIMES) for s in found],
        ),
        ("… logins a second, of a node", [amount(s.logins_per_s_each, *COUNTS) for s in found]),
        ("Cassandra: processors", [f"{s.store_processors:.3g}" for s in found]),
        ("Cassandra: on disk", [amount(s.store_bytes, *BYTES) for s in found]),
    ]


def markdown(inputs: Inputs, found: Sequence[Sizing]) -> str:
    """The table, and what it is made of."""
    head = ["", *(f"{amount(s.sessions, *COUNTS)} sessions" for s in found)]
    lines = [
        "# Sizing",
        "",
        "`benchmarks/scale/run.py`: the smallest cluster that carries the busy hour with one node "
        "lost. An estimate from costs of one session and one message; measure before you buy.",
        "",
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * len(found)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows(found)),
    ]
    for section, names in inputs.sections.items():
        lines += ["", f"## {section.capitalize()}", "", "| input | value | unit | from |"]
        lines.append("| --- | ---: | --- | --- |")
        for name in names:
            figure = inputs.figures[name]
            lines.append(f"| {name} | {figure.value:g} | {figure.unit} | {figure.source} |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Check:
    """One prediction beside what a run found."""

    what: str
    predicted: float
    found: float

    @property
    def is_near(self) -> bool:
        """Whether the model may be believed in this."""
        return abs(self.predicted - self.found) <= TOLERANCE * self.found

    def __str__(self) -> str:
        mark = "near" if self.is_near else "**far**"
        return f"| {self.what} | {self.predicted:.3g} | {self.found:.3g} | {mark} |"


def checks(inputs: Inputs, path: Path, nodes: int = 3) -> list[Check]:
    """The model's words about the run of `benchmarks/cluster.py` in a results file.

    Its one node is taken as measured; what three cost more is predicted. Raises InputsError.
    """
    try:
        document = json.loads(path.read_text())
        run = {row["row"]: row for row in document["rows"]}
        rate = median(document.get("rates", {}).get("three") or [0.0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputsError(f"{path.name}: {error}") from error
    found = []
    links = nodes * (nodes - 1)
    if row := _whole(run, "msg"):
        predicted = row[0] + hops(nodes) * hop_us(inputs, rate * hops(nodes) / links)
        found.append(Check("CPU of a message on three nodes, µs", predicted, row[1]))
    if row := _whole(run, "idle"):
        predicted = row[0] + inputs["registry_kib"]
        found.append(Check("memory of an idle session on three nodes, KiB", predicted, row[1]))
    if row := _whole(run, "login"):
        predicted = row[0] + hops(nodes) * inputs["login_hop_us"]
        found.append(Check("CPU of a login on three nodes, µs", predicted, row[1]))
    if "kill" in run and run["kill"]["three"]:
        found.append(
            Check("homes answer after a death, s", inputs["detect_s"], median(run["kill"]["three"]))
        )
    if not found:
        raise InputsError(f"{path.name}: no row that the model speaks of")
    return found


def _whole(run: dict[str, dict[str, list[float]]], name: str) -> tuple[float, float] | None:
    row = run.get(name)
    if row is None or not row["one"] or not row["three"]:
        return None
    return median(row["one"]), median(row["three"])
