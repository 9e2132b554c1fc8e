# SPDX-License-Identifier: Apache-2.0
"""Names that stand in both languages stand there equally."""

import ast
import re
import tomllib

from antiphon import _core
from antiphon.config.core import (
    CORE_MODULES,
    CoreArchive,
    CoreAuth,
    CoreConfig,
    CoreHandler,
    CoreHost,
)
from antiphon.config.schema import Limits
from antiphon.metrics import names
from antiphon.metrics.export import classic
from tests.repo.files import ROOT

RUST_CONFIG = (ROOT / "rust/node/src/config.rs").read_text()


def fields(struct: str) -> list[str]:
    """Names of a Rust struct's fields."""
    body = re.search(rf"pub struct {struct} \{{(.*?)\n\}}", RUST_CONFIG, re.S)
    assert body is not None
    return re.findall(r"^    pub (\w+):", body[1], re.M)


def test_both_halves_have_the_same_limits() -> None:
    assert fields("Limits") == list(Limits.__struct_fields__)


def test_both_halves_have_the_same_core_configuration() -> None:
    assert fields("NodeConfig") == list(CoreConfig.__struct_fields__)
    assert fields("Host") == list(CoreHost.__struct_fields__)
    assert fields("Auth") == list(CoreAuth.__struct_fields__)
    assert fields("Handler") == list(CoreHandler.__struct_fields__)
    assert fields("Modules") == list(CORE_MODULES)
    assert fields("Archive") == list(CoreArchive.__struct_fields__)


def test_every_name_of_the_stub_exists_and_no_other() -> None:
    tree = ast.parse((ROOT / "python/antiphon/_core.pyi").read_text())
    declared = {
        node.target.id
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        else getattr(node, "name", "")
        for node in tree.body
        if isinstance(node, (ast.AnnAssign, ast.ClassDef, ast.FunctionDef))
    }
    assert declared == {name for name in dir(_core) if not name.startswith("__")}


def test_rust_registers_the_metrics_of_the_table() -> None:
    """By name, as far as the source tells; the wire tests look at a node's `/metrics`."""
    source = (ROOT / "rust/node/src/metrics.rs").read_text()
    for metric in names.CORE:
        name = metric.name.removeprefix("antiphon_").removesuffix("_total")
        name = name.removesuffix("_bytes").removesuffix("_seconds")
        assert f'"{name}"' in source, metric.name
        assert f'"{metric.help.removesuffix(".")}"' in source, metric.help


def test_a_counter_without_samples_keeps_its_name() -> None:
    text = "# HELP antiphon_logins Successful logins.\n# TYPE antiphon_logins counter\n# EOF\n"
    assert "# TYPE antiphon_logins_total counter" in classic(text)


def test_the_fuzz_targets_lie_beside_the_workspace() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    assert "rust/fuzz" in workspace["exclude"]
