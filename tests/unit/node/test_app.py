# SPDX-License-Identifier: Apache-2.0
"""Whole nodes in this process, on free ports of loopback; they need the built library."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from antiphon import _core
from antiphon.admin.protocol import Client
from antiphon.config.load import Loaded, load
from antiphon.metrics import names
from antiphon.node import log as node_log
from antiphon.node.app import Node, NodeError, State, offline
from antiphon.xep._registry import registry

pytestmark = pytest.mark.skipif(
    not hasattr(_core.Core, "addresses"), reason="the library is not built"
)

CONFIG = """
domains = ["localhost"]
[[listener]]
kind = "c2s"
address = "127.0.0.1:0"
[[listener]]
kind = "http"
address = "127.0.0.1:0"
[auth]
scram_iterations = 4096
"""


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload configures logging anew; here the test's own handlers stay."""
    monkeypatch.setattr(node_log, "configure", lambda _log: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "antiphon.toml"
    path.write_text(CONFIG)
    return path


def read(file: Path) -> Loaded:
    return load(str(file), registry().configs(), {})


def make(file: Path) -> Node:
    return Node(read(file), lambda: read(file))


@pytest_asyncio.fixture
async def node(file: Path) -> AsyncIterator[Node]:
    made = make(file)
    await made.start()
    yield made
    await made.stop(1)


def state_of(node: Node) -> str:
    return node.state.value


async def get(node: Node, path: str) -> tuple[int, str]:
    """(status, body) of an HTTP request."""
    address = dict(node.core.addresses())["http"]
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_a_started_node_is_ready_and_a_stopped_one_is_not(file: Path) -> None:
    node = make(file)
    assert state_of(node) == "starting"
    await node.start()
    assert state_of(node) == "ready"
    status, body = await get(node, "/readyz")
    assert (status, '"ready"' in body) == (200, True)
    await node.stop(1)
    assert state_of(node) == "stopped"
    assert not (file.parent / "data" / "admin.sock").exists()


async def test_the_metrics_of_a_node_are_those_of_the_table(node: Node) -> None:
    _status, body = await get(node, "/metrics")
    shown = {line.split()[2] for line in body.splitlines() if line.startswith("# TYPE ")}
    table = {metric.name: metric for metric in (*names.CORE, *names.PYTHON)}
    assert shown <= set(table)
    # A labelled metric of the core appears with its first sample.
    assert all(table[name].labels for name in set(table) - shown)


async def test_commands_at_the_socket_reach_the_store(node: Node, file: Path) -> None:
    client = await Client.connect(file.parent / "data" / "admin.sock")
    await client.run("create_account", {"jid": "romeo@localhost", "password": "x"})
    assert await client.run("count_accounts", {"domain": "localhost"}) == 1
    await client.close()
    assert node.meters.value(names.ADMIN_COMMANDS, "create_account", "ok") == 1


async def test_accounts_of_a_stopped_node_are_there_when_it_starts(file: Path) -> None:
    async with offline(read(file).config) as runner:
        await runner.run("create_account", {"jid": "romeo@localhost", "password": "x"})
    node = make(file)
    await node.start()
    client = await Client.connect(file.parent / "data" / "admin.sock")
    assert await client.run("account_is_enabled", {"jid": "romeo@localhost"}) is True
    await client.close()
    await node.stop(1)


async def test_a_second_node_on_the_same_data_is_refused_in_one_line(
    node: Node, file: Path
) -> None:
    with pytest.raises(NodeError, match="in use by process") as caught:
        await make(file).start()
    assert "\n" not in str(caught.value)
    assert node.state is State.READY


async def test_a_taken_port_is_one_line(node: Node, tmp_path: Path) -> None:
    address = dict(node.core.addresses())["c2s"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "antiphon.toml").write_text(f'[[listener]]\nkind = "c2s"\naddress = "{address}"\n')
    with pytest.raises(NodeError, match=f"cannot listen on {address}"):
        await make(other / "antiphon.toml").start()


async def test_a_reload_takes_new_settings(node: Node, file: Path) -> None:
    file.write_text(CONFIG.replace('["localhost"]', '["localhost", "new.example"]'))
    assert await node.reload()
    assert node.config.domains == ("localhost", "new.example")
    assert (file.parent / "data" / "tls" / "new.example.pem").exists()
    assert node.meters.value(names.RELOADS, "ok") == 1


async def test_a_wrong_configuration_is_refused_and_the_old_one_stays(
    node: Node, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("x = 1\n")
    with caplog.at_level(logging.ERROR):
        assert not await node.reload()
    assert [record.msg for record in caplog.records] == ["configuration refused"]
    assert node.config.domains == ("localhost",)
    assert (await get(node, "/readyz"))[0] == 200
    assert node.meters.value(names.RELOADS, "refused") == 1


async def test_a_certificate_that_cannot_be_used_is_refused_at_a_reload(
    node: Node, file: Path
) -> None:
    (file.parent / "c.pem").write_text("nonsense")
    file.write_text(f'{CONFIG}[tls]\ncertificate = "c.pem"\nkey = "c.pem"\n')
    assert not await node.reload()
    assert (await get(node, "/readyz"))[0] == 200


async def test_what_needs_a_restart_is_kept_and_named(
    node: Node, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(f'data_dir = "elsewhere"\n{CONFIG}')
    with caplog.at_level(logging.WARNING):
        assert await node.reload()
    (record,) = [one for one in caplog.records if one.msg == "restart needed for some changes"]
    assert vars(record)["keys"] == ["data_dir"]
    assert node.config.data_dir == str(file.parent / "data")


async def test_a_command_can_stop_the_node(node: Node, file: Path) -> None:
    client = await Client.connect(file.parent / "data" / "admin.sock")
    await client.run("shut_down", {"delay_s": 0})
    async with asyncio.timeout(5):
        await node.stop_requested.wait()
    await client.close()


async def test_two_nodes_live_in_one_process(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "antiphon.toml").write_text(CONFIG)
    second = make(other / "antiphon.toml")
    await second.start()
    assert (await get(node, "/livez"))[0] == (await get(second, "/livez"))[0] == 200
    await second.stop(1)
    assert (await get(node, "/livez"))[0] == 200


async def test_host_meta_is_served_where_a_listener_has_tls(file: Path) -> None:
    file.write_text(f'{CONFIG}[[listener]]\nkind = "http"\naddress = "127.0.0.1:0"\n')
    node = make(file)
    await node.start()
    status, body = await get(node, "/.well-known/host-meta.json")
    assert (status, json.loads(body)) == (404, {"links": []})
    await node.stop(1)
