# SPDX-License-Identifier: Apache-2.0
"""A node among others: what its configuration must say, and what the core is told."""

import json
import socket
from pathlib import Path

import pytest

from antiphon.config.check import endpoint_fault
from antiphon.config.core import control_address, render_core
from antiphon.config.schema import Config
from tests.unit.config.test_load import faults, read

LISTENER = '[[listener]]\nkind = "cluster"\naddress = "127.0.0.1:7270"\n'
CASSANDRA = '[storage]\nbackend = "cassandra"\n'
TLS = '[cluster.tls]\nca = "ca.pem"\ncertificate = "a.pem"\nkey = "a.key"\n'
NODE = '[node]\nname = "a"\n'
CLUSTER = '[cluster]\nbackend = "etcd"\n'
GOOD = LISTENER + CASSANDRA + NODE + CLUSTER + TLS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ca.pem", "a.pem", "a.key"):
        (tmp_path / name).write_text("x")
    return tmp_path


def cluster(config: Config) -> dict[str, object]:
    document = json.loads(render_core(config, [], [], {}))
    found: dict[str, object] = document["cluster"]
    return found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LISTENER + NODE + CLUSTER + TLS, '7: cluster.backend: "etcd" needs storage.backend = "cassandra": with SQLite each node has a file of its own'),
        (CASSANDRA + CLUSTER + TLS.replace('key = "a.key"\n', ""), "5: cluster.tls.key: is missing; nodes speak to each other under TLS only"),
        (CASSANDRA + CLUSTER + TLS.replace("ca.pem", "no.pem"), "6: cluster.tls.ca: cannot read no.pem: No such file or directory"),
        (LISTENER.replace("cluster", "c2s") + CASSANDRA + CLUSTER + TLS, '7: cluster.backend: no listener takes other nodes; add one of kind = "cluster"'),
        (GOOD + LISTENER.replace("7270", "7271"), "15: listener[1].kind: listener[0] is one already; keep one"),
        (GOOD.replace("7270", "0"), "3: listener[0].address: other nodes must know the port; choose one"),
        (GOOD.replace("7270", "5271"), "8: cluster.control_port: 127.0.0.1:5271 is taken by 127.0.0.1:5271"),
        (LISTENER + 'tls = "none"\n' + CASSANDRA + CLUSTER + TLS, "4: listener[0].tls: nodes always speak under TLS, by [cluster.tls]; leave this out"),
        (GOOD + "[cluster.etcd]\nendpoints = []\n", "15: cluster.etcd.endpoints: is empty; name the members, host:port"),
        (GOOD + '[cluster.etcd]\nendpoints = ["a:2379", "b"]\n', '15: cluster.etcd.endpoints[1]: "b" is not host:port'),
        (GOOD + '[cluster.etcd]\nuser = "u"\n', "15: cluster.etcd.user: needs password or password_file beside it"),
        (GOOD + '[cluster.etcd]\ncertificate = "a.pem"\n', "15: cluster.etcd.certificate: needs its key beside it"),
        (GOOD + '[cluster.etcd]\ncertificate = "a.pem"\nkey = "a.key"\n', "15: cluster.etcd.certificate: needs the ca beside it, which turns TLS on"),
        (GOOD + '[cluster.etcd]\nprefix = "a b"\n', "15: cluster.etcd.prefix: expected names of letters, digits, . - and _ between slashes, like /antiphon"),
        (GOOD + '[cluster.etcd]\npassword_file = "no"\n', "15: cluster.etcd.password_file: cannot read"),
        (GOOD.replace(CLUSTER, CLUSTER + 'name = "a/b"\n'), "10: cluster.name: expected letters, digits, . - and _, at most 63"),
        (GOOD.replace(CLUSTER, CLUSTER + 'advertise = "a b"\n'), "10: cluster.advertise: expected a host name or an IP address, without a port"),
        (GOOD.replace(CLUSTER, CLUSTER + 'etcd_loss = "freez"\n'), '10: cluster.etcd_loss: "freez" is not freeze or fence; did you mean freeze?'),
        (GOOD.replace(NODE, NODE + 'zone = "a b"\n'), "8: node.zone: expected letters, digits, . - and _, at most 63"),
    ],
)  # fmt: skip
def test_what_a_cluster_needs_is_one_line(folder: Path, text: str, line: str) -> None:
    assert faults(folder, text)[0].startswith(f"antiphon.toml:{line}")


@pytest.mark.parametrize(
    ("endpoint", "has_ca", "is_good"),
    [
        ("a:2379", False, True),
        ("http://a:2379", False, True),
        ("https://a:2379/", True, True),
        ("[::1]:2379", False, True),
        ("https://a:2379", False, False),
        ("ftp://a:2379", True, False),
        ("http://a", False, False),
        ("a:2379/path", False, False),
        ("a b:1", False, False),
        ("::1:2379", False, False),
        ("a:0", False, False),
    ],
)
def test_a_member_of_etcd_is_a_host_and_a_port(endpoint: str, has_ca: bool, is_good: bool) -> None:
    assert (endpoint_fault(endpoint, has_ca=has_ca) is None) is is_good


def test_the_core_is_told_of_the_cluster_and_not_of_its_listener(folder: Path) -> None:
    (folder / "secret").write_text("hush\n")
    text = GOOD + '[cluster.etcd]\nuser = "u"\npassword_file = "secret"\n'
    config = read(folder, text.replace(NODE, NODE + 'zone = "z1"\n')).config
    assert cluster(config) == {
        "name": "antiphon", "zone": "z1", "listen": "127.0.0.1:7270", "relay": "127.0.0.1:7270",
        "control": "127.0.0.1:5271", "version": "0.1.0", "etcd_loss": "freeze",
        "write_log": None,
        "etcd": {
            "endpoints": ["127.0.0.1:2379"], "prefix": "/antiphon", "ca": None,
            "certificate": None, "key": None, "user": "u", "password": "hush",
        },
        "tls": {"ca": f"{folder}/ca.pem", "certificate": f"{folder}/a.pem", "key": f"{folder}/a.key"},
    }  # fmt: skip
    document = json.loads(render_core(config, [], [], {}))
    assert document["listeners"] == []


def test_a_lone_node_and_a_stopped_one_are_told_of_no_cluster(folder: Path) -> None:
    assert "cluster" not in json.loads(render_core(read(folder, "").config, [], [], {}))
    config = read(folder, GOOD).config
    assert "cluster" not in json.loads(render_core(config, [], [], {}, is_offline=True))


@pytest.mark.parametrize(
    ("address", "advertise", "relay", "local"),
    [
        ("10.0.0.5:7270", None, "10.0.0.5:7270", "10.0.0.5:5271"),
        ("[::1]:7270", None, "[::1]:7270", "[::1]:5271"),
        ("0.0.0.0:7270", None, "box:7270", "127.0.0.1:5271"),
        ("[::]:7270", None, "box:7270", "[::1]:5271"),
        ("0.0.0.0:7270", "a.example", "a.example:7270", "127.0.0.1:5271"),
        ("0.0.0.0:7270", "fd00::7", "[fd00::7]:7270", "127.0.0.1:5271"),
    ],
)
def test_other_nodes_are_told_an_address_that_they_can_reach(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    advertise: str | None,
    relay: str,
    local: str,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    text = GOOD.replace("127.0.0.1:7270", address)
    if advertise is not None:
        text = text.replace(CLUSTER, f'{CLUSTER}advertise = "{advertise}"\n')
    config = read(folder, text).config
    assert cluster(config)["relay"] == relay
    assert cluster(config)["control"] == relay.replace("7270", "5271")
    assert control_address(config, is_local=True) == local


def test_an_empty_zone_is_none(folder: Path) -> None:
    config = read(folder, GOOD, {"ANTIPHON_NODE_ZONE": ""}).config
    assert cluster(config)["zone"] is None


def test_without_listeners_the_default_port_takes_other_nodes(folder: Path) -> None:
    config = read(folder, CASSANDRA + NODE + CLUSTER + TLS).config
    assert config.listeners()[-1].address == "127.0.0.1:5270"
    served = read(folder, 'domains = ["a.example"]\n' + CASSANDRA + CLUSTER + TLS).config
    assert served.listeners()[-1].address.endswith(":5270")
    assert not served.listeners()[-1].address.startswith("127.")
