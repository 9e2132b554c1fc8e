# SPDX-License-Identifier: Apache-2.0
"""Puts the schema of antiphon.toml into the chart's values.schema.json: what `config` may hold.

A mistake in `config` is then refused by Helm, before anything is installed, as it would be by the
node. Run by `make docs`; a test checks that the file is fresh. Without arguments it writes.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

CHART = Path(__file__).parent / "antiphon"
SCHEMA = CHART / "values.schema.json"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "antiphon.schema.json"

MANAGED = ("data_dir", "listener", "tls", "storage", "cluster", "component")
"""Sections that the chart decides."""


def merged(values: dict[str, object], reference: dict[str, object]) -> dict[str, object]:
    """The values' schema with `config` as the reference of antiphon.toml has it."""
    definitions = copy.deepcopy(reference["$defs"])
    if not isinstance(definitions, dict):
        raise TypeError("$defs is no table")
    for name in MANAGED:
        definitions["Config"]["properties"].pop(name)
    definitions["Config"]["required"] = ["domains"]
    definitions["Config"]["properties"]["domains"]["minItems"] = 1
    definitions["Node"]["properties"].pop("name")  # the pod's
    used = _reachable(definitions, "Config")
    result = copy.deepcopy(values)
    properties = result["properties"]
    if not isinstance(properties, dict):
        raise TypeError("properties is no table")
    properties["config"] = {"$ref": "#/$defs/Config"}
    result["$defs"] = {name: definitions[name] for name in definitions if name in used}
    return result


def _reachable(definitions: dict[str, object], start: str) -> set[str]:
    waiting, found = [start], {start}
    while waiting:
        text = json.dumps(definitions[waiting.pop()])
        for name in definitions:
            if name not in found and f'"#/$defs/{name}"' in text:
                found.add(name)
                waiting.append(name)
    return found


def written() -> str:
    """The file's text as it should be."""
    values = json.loads(SCHEMA.read_text())
    reference = json.loads(REFERENCE.read_text())
    return json.dumps(merged(values, reference), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Writes, or with --check says whether the file is fresh."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    text = written()
    if parser.parse_args().check:
        return 0 if SCHEMA.read_text() == text else 1
    SCHEMA.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
