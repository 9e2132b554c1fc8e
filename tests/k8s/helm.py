# SPDX-License-Identifier: Apache-2.0
"""Renders the chart with a real Helm."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s" / "helm" / "antiphon"
NAMESPACE = "chat"
RELEASE = "xmpp"
VERSION = "1.36.0"

Document = dict[str, Any]
"""A manifest of Kubernetes, or values of the chart: JSON, judged by schemas and not by types."""


class RefusedError(Exception):
    """What Helm says when it refuses values."""


@cache
def program() -> str:
    """Where Helm is; built the first time, by `make deps`."""
    done = subprocess.run(
        [ROOT / "tests" / "deps" / "go.sh", "helm"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def run(arguments: list[str], values: Document | None = None) -> str:
    """What Helm prints. Raises RefusedError with its own words."""
    command = [program(), *arguments]
    if values is not None:
        command += ["--values", "-"]
    done = subprocess.run(
        command,
        input=json.dumps(values) if values is not None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return done.stdout


def text(values: Document) -> str:
    """All manifests as Helm writes them."""
    return run(
        ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", VERSION],
        values,
    )


def documents(values: Document) -> list[Document]:
    """All manifests, in Helm's order."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [one for one in yaml.load_all(text(values), Loader=loader) if one is not None]


def only(found: list[Document], kind: str, component: str = "node") -> Document:
    """The one manifest of a kind for a component."""
    matching = [
        one
        for one in found
        if one["kind"] == kind
        and one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    assert len(matching) == 1, [one["metadata"]["name"] for one in matching]
    return matching[0]
