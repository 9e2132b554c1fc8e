# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own schemas, strict: a key that they do not know is a fault.

Those of Kubernetes come with the package `kubernetes-validate`; those of custom resources from the
modules of their projects (`tests/deps/crds.sh`).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.k8s.helm import ROOT, Document

VERSIONS = ("1.30", "1.33", "1.37")
"""The oldest that the chart allows, one between, and the newest that the package knows."""

_DOMAIN = re.compile(r"^([^./]*)(?:\.[^/]*)?/")


@cache
def crds() -> tuple[Document, ...]:
    """The definitions of the custom resources that the chart makes."""
    done = subprocess.run(
        [ROOT / "tests" / "deps" / "crds.sh"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    files = [Path(line) for line in done.stdout.splitlines()]
    return tuple(
        document
        for file in files
        for document in yaml.safe_load_all(file.read_text())
        if document is not None
    )


@cache
def _validator(version: str, kind: str, api_version: str) -> Draft202012Validator:
    for crd in crds():
        spec = crd["spec"]
        group, _, name = api_version.partition("/")
        if (spec["names"]["kind"], spec["group"]) == (kind, group):
            schema = next(one["schema"] for one in spec["versions"] if one["name"] == name)
            return Draft202012Validator(_strict(schema["openAPIV3Schema"]))
    folder = f"v{version}.0-local-strict"
    short = _DOMAIN.sub(r"\1-", api_version)
    schema = _file(folder, f"{kind.lower()}-{short}.json")
    definitions = Resource.from_contents(_file(folder, "_definitions.json"))
    registry: Registry[Document] = definitions @ (Resource.from_contents(schema) @ Registry())
    return Draft202012Validator(schema, registry=registry)


@cache
def _file(folder: str, name: str) -> Document:
    place = resources.files("kubernetes_validate") / "kubernetes-json-schema" / folder / name
    document: Document = json.loads(place.read_text())
    return document


def _strict(schema: Document) -> Document:
    """A structural schema that allows no other keys; every object, or what it may hold, is named."""
    result = {
        key: _strict(value) if isinstance(value, dict) else value for key, value in schema.items()
    }
    preserves = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in schema and isinstance(schema.get("type"), str) and not preserves:
        result.setdefault("additionalProperties", False)
    return result


def faults(document: Document, version: str) -> Iterator[str]:
    """What a Kubernetes of a version has against a manifest."""
    validator = _validator(version, document["kind"], document["apiVersion"])
    for error in validator.iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
