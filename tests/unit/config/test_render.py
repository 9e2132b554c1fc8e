"""Example, JSON schema and reference come from the one schema."""

import json
import tomllib
from pathlib import Path

from antiphon.config import render
from antiphon.config.compose import compose
from antiphon.config.environment import keys
from antiphon.config.schema import Config
from tests.unit.config.features import OPTIONS
from tests.unit.config.test_load import read


def uncommented(text: str) -> str:
    """The example with the keys that are commented out switched on."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_key = " = " in bare and bare.split(" = ")[0].replace("_", "").isalnum()
        lines.append(bare if is_key or bare.startswith("[") else line)
    return "\n".join(lines)


def test_the_example_loads_and_equals_the_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, render.example(OPTIONS)).config
    defaults = read(tmp_path, "").config
    assert config == defaults


def test_the_example_names_every_key() -> None:
    document = tomllib.loads(uncommented(render.example(OPTIONS)))
    for path, _field in keys(compose(OPTIONS), {}):
        here: object = document
        for part in path:
            here = here[part]  # type: ignore[index]


def test_every_key_has_a_description() -> None:
    missing = [path for path, one in keys(compose({}), {}) if not one.description]
    assert missing == []


def test_the_json_schema_refuses_unknown_keys_and_knows_the_features() -> None:
    document = json.loads(render.json_schema(OPTIONS))
    text = json.dumps(document)
    assert "max_devices" in text
    assert document["$schema"].endswith("2020-12/schema")
    config = document["$defs"]["Config"]
    assert config["additionalProperties"] is False
    assert set(Config.__struct_fields__) == set(config["properties"])


def test_the_reference_names_every_key() -> None:
    page = render.reference(OPTIONS)
    for path, _field in keys(compose(OPTIONS), {}):
        assert f"| `{path[-1]}` |" in page
