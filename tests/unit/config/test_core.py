"""The document for the Rust core."""

import json
from pathlib import Path

from antiphon.config.core import CoreHandler, CoreHost, render_core, websocket_url
from tests.unit.config.test_load import read


def test_the_core_gets_every_key_it_knows_and_no_other(tmp_path: Path) -> None:
    config = read(tmp_path, '[modules]\ndisable = ["carbons"]\n[node]\nname = "a"\n').config
    host = CoreHost(domain="localhost", certificate="c", key="k", extra_features="<c/>")
    handler = CoreHandler(
        target="host", is_set=False, ns="jabber:iq:last", name="query", ordered=False
    )
    document = json.loads(render_core(config, [handler], [host], {"carbons": False, "sm": True}))
    assert set(document) == {
        "node_name", "data_dir", "log_level", "worker_threads", "hosts", "listeners", "auth", "storage",
        "components", "limits", "handlers", "modules",
        "archive",
    }  # fmt: skip
    assert document["node_name"] == "a"
    assert document["hosts"] == [
        {"domain": "localhost", "certificate": "c", "key": "k", "extra_features": "<c/>",
         "registration": False, "modules": None}
    ]  # fmt: skip
    assert document["handlers"][0] == {
        "target": "host", "is_set": False, "ns": "jabber:iq:last", "name": "query",
        "ordered": False,
    }  # fmt: skip
    assert document["modules"]["carbons"] is False
    assert document["modules"]["sm"] is True
    assert document["limits"]["stanza_bytes"] == 262144
    assert document["auth"]["mechanisms"][0] == "SCRAM-SHA-512-PLUS"
    assert "EXTERNAL" not in document["auth"]["mechanisms"]


def test_client_authorities_turn_external_on(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    config = read(tmp_path, '[auth]\nclient_ca = "ca.pem"\n').config
    document = json.loads(render_core(config, [], [], {}))
    assert document["auth"]["mechanisms"][0] == "EXTERNAL"
    assert document["auth"]["client_ca"] == str(tmp_path / "ca.pem")


def test_metrics_are_served_on_loopback_only_unless_told_otherwise(tmp_path: Path) -> None:
    text = (
        '[[listener]]\nkind = "http"\naddress = "127.0.0.1:1"\n'
        '[[listener]]\nkind = "http"\naddress = "0.0.0.0:2"\n'
        '[[listener]]\nkind = "http"\naddress = "0.0.0.0:3"\npaths = ["/metrics"]\n'
    )
    document = json.loads(render_core(read(tmp_path, text).config, [], [], {}))
    served = [listener["paths"] for listener in document["listeners"]]
    assert "/metrics" in served[0]
    assert "/metrics" not in served[1]
    assert served[2] == ["/metrics"]
    assert {"/.well-known/host-meta", "/.well-known/host-meta.json"} <= set(served[1])


def test_offline_there_are_no_listeners(tmp_path: Path) -> None:
    document = json.loads(render_core(read(tmp_path, "").config, [], [], {}, is_offline=True))
    assert document["listeners"] == []


def test_the_websocket_address_comes_from_the_listener_with_tls(tmp_path: Path) -> None:
    assert websocket_url(read(tmp_path, "").config, "a.example") == "wss://a.example:5281/ws"


def test_the_websocket_address_can_be_set_for_a_proxy(tmp_path: Path) -> None:
    config = read(tmp_path, '[http]\nwebsocket_url = "wss://{domain}/ws"\n').config
    assert websocket_url(config, "a.example") == "wss://a.example/ws"


def test_without_tls_no_websocket_address_is_announced(tmp_path: Path) -> None:
    text = '[[listener]]\nkind = "http"\naddress = "127.0.0.1:5280"\n'
    assert websocket_url(read(tmp_path, text).config, "a.example") is None
