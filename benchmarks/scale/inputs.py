# SPDX-License-Identifier: Apache-2.0
"""What the model is fed with: figures of results files, what is taken for granted, the workload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"


class InputsError(Exception):
    """The inputs cannot be used; one line says where."""


@dataclass(frozen=True)
class Figure:
    """One number, and where it is from."""

    value: float
    unit: str
    source: str
    file: str = ""
    row: str = ""


@dataclass(frozen=True)
class Inputs:
    """All of them by name; `inputs["session_kib"]`."""

    figures: Mapping[str, Figure]
    sections: Mapping[str, tuple[str, ...]]
    """Names by section, in the order of the file."""

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def with_(self, **values: float) -> Inputs:
        """The same with other values. Raises InputsError for a name that is not there."""
        changed = dict(self.figures)
        for name, value in values.items():
            if name not in changed:
                raise InputsError(f"no input is called {name}")
            old = changed[name]
            changed[name] = Figure(value, old.unit, "as given", "", "")
        return Inputs(changed, self.sections)


def read(path: Path = HERE / "inputs.json") -> Inputs:
    """Reads the file. Raises InputsError with the place of what is wrong."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputsError(f"{path.name}: {error}") from error
    figures: dict[str, Figure] = {}
    sections: dict[str, tuple[str, ...]] = {}
    for section, entries in document.items():
        sections[section] = tuple(entries)
        for name, entry in entries.items():
            value = entry.get("value")
            if not isinstance(value, int | float) or value <= 0:
                raise InputsError(f"{path.name}: {section}.{name}: {value!r} is not above 0")
            file, row = entry.get("file", ""), entry.get("row", "")
            source = entry.get("why") or f"{file}: {row}"
            figures[name] = Figure(float(value), entry["unit"], source, file, row)
    return Inputs(figures, sections)


def measured(file: str, row: str) -> float:
    """The median of our own node in a results file. Raises InputsError if there is none."""
    path = RESULTS / file
    try:
        rows = json.loads(path.read_text())["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise InputsError(f"{file}: {error}") from error
    for one in rows:
        if one["title"] == row and "antiphon" in one["medians"]:
            return float(one["medians"]["antiphon"])
    raise InputsError(f"{file}: no row {row!r}")
