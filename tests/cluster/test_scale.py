# SPDX-License-Identifier: Apache-2.0
"""The sizing model: fed with what was measured, and sane in what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from support.server import ROOT

sys.path.append(str(ROOT / "benchmarks"))

# The harness is no package of the tests: the way into its folder has to be made first.
from scale.inputs import InputsError, measured, read
from scale.model import hop_us, hops, size
from scale.report import checks

SIZES = (1_000_000, 10_000_000, 100_000_000)


def test_every_measured_input_is_what_its_results_file_says() -> None:
    inputs = read()
    for name in inputs.sections["measured"]:
        figure = inputs.figures[name]
        assert measured(figure.file, figure.row) == pytest.approx(figure.value), name


def test_one_node_has_no_hops_and_many_have_nearly_three() -> None:
    assert hops(1) == 0
    assert hops(3) == pytest.approx(2.0)
    assert 2.9 < hops(100) < 3.0


def test_a_busy_link_costs_less_for_each_stanza_than_a_quiet_one() -> None:
    inputs = read()
    quiet, busy = hop_us(inputs, 1.0), hop_us(inputs, 100_000.0)
    assert quiet > 100
    assert busy < 5


def test_a_larger_crowd_needs_more_of_everything_and_none_is_too_large() -> None:
    inputs = read()
    found = [size(inputs, sessions) for sessions in SIZES]
    for small, large in pairwise(found):
        assert large.nodes > small.nodes
        assert large.links_each > small.links_each
        assert large.etcd_keepalives_per_s > small.etcd_keepalives_per_s
    for one in found:
        gib = inputs["memory_gib"] * 2**30 * inputs["memory_share"]
        assert one.memory_each_bytes <= gib
        assert one.processors_each <= inputs["processors"] * inputs["cpu_share"]
        assert one.sessions_each <= inputs["most_sessions"]
        assert one.etcd_writes_per_s < 1.0


def test_a_node_less_is_too_few() -> None:
    inputs = read()
    one = size(inputs, 50_000_000)
    assert one.bound_by in ("memory", "sessions of a node")
    tight = inputs.with_(most_sessions=1e9, memory_gib=8.0)
    assert size(tight, 50_000_000).bound_by == "memory"
    busy = inputs.with_(messages_per_s=1.0)
    assert size(busy, 10_000_000).bound_by in ("processors", "network")


def test_a_lost_node_is_absorbed_sooner_by_more() -> None:
    inputs = read()
    few = size(inputs, 1_000_000)
    many = size(inputs.with_(most_sessions=100_000.0), 1_000_000)
    assert many.nodes > few.nodes
    assert many.logins_s < few.logins_s
    assert few.rebuild_s >= inputs["detect_s"]


def test_links_that_cost_more_than_a_node_has_are_an_error() -> None:
    with pytest.raises(ValueError, match="links"):
        size(read().with_(pair_us=1e6), 100_000_000)


def test_a_run_is_compared_with_the_model(tmp_path: Path) -> None:
    inputs = read()
    path = tmp_path / "run.json"
    rate = 12_000.0
    near = {"row": "msg", "one": [4.0], "three": [4.0 + hops(3) * hop_us(inputs, rate / 3)]}
    far = {"row": "idle", "one": [4.0], "three": [14.0]}
    path.write_text(json.dumps({"rows": [near, far], "rates": {"three": [rate]}}))
    assert [one.is_near for one in checks(inputs, path)] == [True, False]
    path.write_text(json.dumps({"rows": []}))
    with pytest.raises(InputsError):
        checks(inputs, path)


def test_the_command_prints_a_table_and_refuses_nonsense_in_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "scale" / "run.py")]
    done = subprocess.run([*command, "250k", "10M"], capture_output=True, text=True, check=True)
    assert "| nodes |" in done.stdout
    refused = subprocess.run(
        [*command, "--set", "nothing=1"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert refused.stderr.strip() == "scale: no input is called nothing"
