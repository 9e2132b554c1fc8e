# SPDX-License-Identifier: Apache-2.0
"""A whole node of a cluster in this process; only its core is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from antiphon import _core
from antiphon.admin.protocol import Client
from antiphon.cluster.remote import Remote
from antiphon.cluster.tls import read as read_tls
from antiphon.config.load import Loaded, load
from antiphon.node import app
from antiphon.node import log as node_log
from antiphon.node.app import Node, NodeError, State
from antiphon.xep._registry import registry
from tests.support.certs import Authority
from tests.unit.cluster.nodes import free_port, tls
from tests.unit.fake_core import Event
from tests.unit.node.test_clustered import Core

pytestmark = pytest.mark.skipif(
    not hasattr(_core, "certificate_names"), reason="the library is not built"
)


class WholeCore(Core):
    """With the life of a core."""

    made: ClassVar[list[WholeCore]] = []
    at_first: ClassVar[dict[str, object]] = {}

    def __init__(self, document: str) -> None:
        super().__init__()
        self.documents = [json.loads(document)]
        self.life: list[str] = []
        self.step = 4096
        self.more = dict(self.at_first)
        WholeCore.made.append(self)

    def start(self) -> int:
        self.life.append("start")
        self.members = {"a": self.documents[0]["cluster"]["control"], "b": "127.0.0.1:1"}
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        self.wake = lambda: os.eventfd_write(self.eventfd, 1)
        return self.eventfd

    def drain(self, limit: int = 256) -> list[Event]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.eventfd)
        return super().drain(limit)

    def reload(self, document: str) -> None:
        self.documents.append(json.loads(document))

    def stop_accepting(self) -> None:
        self.life.append("stop accepting")

    def cluster_drain(self) -> None:
        self.life.append("drain")
        super().cluster_drain()

    def stop(self, _deadline_s: float) -> None:
        self.life.append(f"stop holding {self.left}")

    def metrics(self) -> str:
        return ""

    def addresses(self) -> list[tuple[str, str]]:
        return []


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    WholeCore.made = []
    made: Any = WholeCore
    monkeypatch.setattr(app, "Core", made)
    monkeypatch.setattr(node_log, "configure", lambda _log: None)
    files = tls(Authority(tmp_path / "ca"), "a")
    path = tmp_path / "antiphon.toml"
    path.write_text(
        f'[[listener]]\nkind = "cluster"\naddress = "127.0.0.1:{free_port()}"\n'
        '[storage]\nbackend = "cassandra"\n[node]\nname = "a"\ndrain_seconds = 1\n'
        f'[cluster]\nbackend = "etcd"\ncontrol_port = {free_port()}\n'
        f'[cluster.tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
        f'key = "{files.key}"\n'
    )
    return path


def read(file: Path) -> Loaded:
    return load(str(file), registry().configs(), {})


@pytest_asyncio.fixture
async def node(file: Path) -> AsyncIterator[Node]:
    made = Node(read(file), lambda: read(file))
    await made.start()
    yield made
    await made.stop(1)


@pytest_asyncio.fixture
async def remote(node: Node) -> AsyncIterator[Remote]:
    found = Remote("a", core().members["a"], read_tls(node.config.cluster.tls))
    yield found
    await found.close()


def core() -> WholeCore:
    return WholeCore.made[-1]


async def test_a_node_is_ready_while_it_is_in(node: Node, remote: Remote) -> None:
    assert (await remote.health(5)).is_ready
    core().more = {"stage": "out: the lease ended"}
    health = await remote.health(5)
    assert (health.is_ready, health.state) == (False, "ready")
    assert "antiphon_ready 0\n" in node.meters.text()
    assert "antiphon_cluster_in 0\n" in node.meters.text()


async def test_a_stop_hands_over_before_streams_end(node: Node) -> None:
    core().left = 4096
    await node.stop(1)
    assert core().life == ["start", "stop accepting", "drain", "stop holding 0"]


async def test_a_drain_that_was_asked_for_leaves_the_node_up(node: Node, remote: Remote) -> None:
    assert [await remote.drain(5), await remote.drain(5)] == [False, True]
    assert node.state is State.DRAINING
    assert (await remote.health(5)).state == "draining"
    assert await remote.reload(5) == ("the node is draining",)


async def test_a_reload_takes_new_certificates_and_names_what_it_cannot(
    node: Node, remote: Remote, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(file.read_text().replace("[cluster]\n", '[cluster]\netcd_loss = "fence"\n'))
    with caplog.at_level(logging.WARNING):
        assert await remote.reload(5) == ()
    (record,) = [one for one in caplog.records if one.msg == "restart needed for some changes"]
    assert vars(record)["keys"] == ["cluster"]
    assert core().documents[-1]["cluster"]["etcd_loss"] == "freeze"
    key = node.config.cluster.tls.key
    assert key is not None
    Path(key).write_text("nonsense")
    problems = await remote.reload(5)
    assert problems[0].startswith("cluster.tls.key: ")
    assert len(core().documents) == 2


async def test_the_level_of_the_log_reaches_the_core(node: Node, remote: Remote) -> None:
    assert await remote.set_log_level("debug", 5) == "info"
    assert core().documents[-1]["log_level"] == logging.DEBUG
    assert await remote.set_log_level("info", 5) == "debug"
    with pytest.raises(Exception, match="write debug, info, warning or error"):
        await remote.set_log_level("loud", 5)


async def test_commands_of_the_socket_run_by_control_calls_too(
    node: Node, remote: Remote, file: Path
) -> None:
    core().accounts["juliet@localhost"] = True
    client = await Client.connect(file.parent / "data" / "admin.sock")
    asked = {"jid": "juliet@localhost"}
    assert await client.run("account_is_enabled", asked) is True
    assert await remote.run("account_is_enabled", asked, 5) is True
    await client.close()


async def test_a_start_waits_for_the_cluster_and_can_be_stopped(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WholeCore, "at_first", {"incarnation": 0, "stage": "joining: etcd"})
    node = Node(read(file), lambda: read(file))
    starting = asyncio.ensure_future(node.start())
    await asyncio.sleep(0.5)
    assert node.state is State.STARTING
    node.stop_requested.set()
    await asyncio.wait_for(starting, 5)
    assert node.state is State.STARTING
    await node.stop(1)
    assert "drain" not in core().life


async def test_a_port_that_is_taken_ends_the_start_with_one_line(node: Node, file: Path) -> None:
    text = file.read_text().replace('name = "a"', 'name = "A"')
    other = file.with_name("other.toml")
    other.write_text(f'data_dir = "{file.parent}/other"\n{text}')
    second = Node(read(other), lambda: read(other))
    with pytest.raises(NodeError, match=r"^cannot listen on .* for control calls"):
        await second.start()
    assert core().life[-1] == "stop holding 0"


async def test_a_certificate_of_another_node_ends_the_start(file: Path) -> None:
    file.write_text(file.read_text().replace('name = "a"', 'name = "b"'))
    node = Node(read(file), lambda: read(file))
    with pytest.raises(
        NodeError, match=r"antiphon\.toml:\d+: cluster\.tls\.certificate: .* names a"
    ):
        await node.start()
    assert WholeCore.made == []
