# SPDX-License-Identifier: Apache-2.0
"""A node's part in its cluster, its core being a fake."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from antiphon import _core
from antiphon.cluster.api import ControlError, Outlook
from antiphon.cluster.remote import Remote
from antiphon.cluster.status import ClusterStatus, read
from antiphon.cluster.tls import read as read_tls
from antiphon.config.load import Loaded
from antiphon.config.schema import Config
from antiphon.metrics import names
from antiphon.metrics.export import Meters
from antiphon.node.bridge import Bridge
from antiphon.node.clustered import Hooks, Neighbour, refuse_bad_certificate
from antiphon.node.measure import measure, series
from antiphon.xep._registry import registry
from antiphon.xmpp.jid import Jid
from tests.support.certs import Authority
from tests.unit.cluster.nodes import free_port, status, tls
from tests.unit.config.test_load import read as configured
from tests.unit.fake_core import FakeCore

pytestmark = pytest.mark.skipif(
    not hasattr(_core, "certificate_names"), reason="the library is not built"
)
JULIET = Jid("juliet@localhost")


@dataclass
class Core(FakeCore):
    """With a cluster in which it holds `left` shards, fewer at each look once it drains."""

    members: dict[str, str] = field(default_factory=dict)
    more: dict[str, object] = field(default_factory=dict)
    left: int = 0
    step: int = 0
    home: str | None = "a"
    drained: int = 0
    rebalanced: int = 0

    def cluster_status(self) -> str:
        if self.drained:
            self.left = max(0, self.left - self.step)
        shards = {"all": 4096, "served": self.left, "coming": 0, "going": 0, "by_node": {}}
        return json.dumps(status("a", self.members, **{"shards": shards, **self.more}))

    def cluster_home(self, jid: str) -> str | None:
        assert "/" not in jid
        return self.home

    def cluster_drain(self) -> None:
        self.drained += 1

    def cluster_stay(self) -> bool:
        self.drained = 0
        return True

    def cluster_rebalance(self) -> tuple[int, int, int, bool] | None:
        self.rebalanced += 1
        return (0, 1365, 1366, False) if self.rebalanced == 1 else None


class Runner:
    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        return [command, dict(arguments)]


@dataclass
class Given:
    loaded: Loaded
    core: Core
    neighbour: Neighbour
    bridge: Bridge
    asked: list[str]
    authority: Authority

    @property
    def config(self) -> Config:
        return self.loaded.config


@pytest_asyncio.fixture
async def given(tmp_path: Path) -> AsyncIterator[Given]:
    authority = Authority(tmp_path / "ca")
    files = tls(authority, "a")
    relay, control = free_port(), free_port()
    loaded = configured(
        tmp_path,
        f'[[listener]]\nkind = "cluster"\naddress = "127.0.0.1:{relay}"\n'
        '[storage]\nbackend = "cassandra"\n[node]\nname = "a"\n'
        f'[cluster]\nbackend = "etcd"\ncontrol_port = {control}\n'
        f'[cluster.tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
        f'key = "{files.key}"\n',
    )
    core = Core(members={"a": f"127.0.0.1:{control}", "b": "127.0.0.1:1"})
    bridge = Bridge(core, registry().assemble(Config()))
    core.wake = bridge.drain
    asked: list[str] = []

    def drains() -> bool:
        asked.append("drains")
        return asked.count("drains") > 1

    def stays() -> bool | None:
        if "ends" in asked:
            return None
        asked.append("stays")
        return asked.count("stays") == 1

    async def reload() -> tuple[str, ...]:
        return ("antiphon.toml:1: x",)

    async def level(word: str) -> str:
        asked.append(word)
        return "info"

    hooks = Hooks(
        state=lambda: "ready", is_ready=lambda: True, drains=drains, stays=stays, reload=reload,
        set_log_level=level,
    )  # fmt: skip
    neighbour = Neighbour(loaded.config, core, bridge, Runner(), hooks)
    await neighbour.open()
    yield Given(loaded, core, neighbour, bridge, asked, authority)
    await neighbour.close(0)
    await bridge.close(0)


async def test_a_node_answers_control_calls(given: Given) -> None:
    remote = Remote("a", given.core.members["a"], read_tls(given.config.cluster.tls))
    assert (await remote.health(5)).state == "ready"
    assert (await remote.status(5))[0].incarnation == 1
    assert await remote.run("x", {"a": 1}, 5) == ["x", {"a": 1}]
    assert await remote.reload(5) == ("antiphon.toml:1: x",)
    assert await remote.set_log_level("debug", 5) == "info"
    assert [await remote.drain(5), await remote.drain(5)] == [False, True]
    assert await remote.rebalance(5) == Outlook(0, 1365, 1366, False)
    with pytest.raises(ControlError, match="does not plan"):
        await remote.rebalance(5)
    assert given.asked == ["debug", "drains", "drains"]
    assert (given.core.drained, given.core.rebalanced) == (2, 2)
    assert [await remote.stay(5), await remote.stay(5)] == [True, False]
    assert given.core.drained == 0
    given.asked.append("ends")
    with pytest.raises(ControlError, match="this node ends"):
        await remote.stay(5)
    await remote.close()


async def test_calls_for_entities_of_other_nodes_leave_the_core_alone(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.cluster.calls.LONGEST_S", 0.0)
    given.core.rosters[str(JULIET)] = {}
    await given.bridge.call("account.exists", JULIET)
    assert [call[0] for call in given.core.calls] == ["account.exists"]
    given.core.home = None
    with pytest.raises(Exception, match="nobody owns it yet"):
        await given.bridge.call("account.exists", JULIET)
    assert len(given.core.calls) == 1


async def test_a_stop_waits_until_everything_is_handed_over(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    given.core.left, given.core.step = 1000, 400
    with caplog.at_level(logging.INFO):
        await given.neighbour.hand_over(10)
    assert given.core.left == 0
    assert given.core.drained == 1
    assert caplog.records[-1].msg == "shards handed over"


async def test_a_stop_waits_no_longer_than_it_may(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    given.core.left = 1000
    await given.neighbour.hand_over(0.15)
    assert caplog.records[-1].msg == "shards not handed over in time"


async def test_a_stop_says_that_it_waits_for_etcd(
    given: Given, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.node.clustered._SAY_S", 0.0)
    given.core.left, given.core.more = 1000, {"is_frozen": True}
    await given.neighbour.hand_over(0.15)
    assert caplog.records[0].msg == "handing over waits for etcd to answer"


async def test_the_last_node_hands_over_to_nobody(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    given.core.left = 1000
    given.core.members.pop("b")
    with caplog.at_level(logging.INFO):
        await given.neighbour.hand_over(60)
    assert caplog.records[-1].msg == "nobody to hand over to"


@pytest.mark.parametrize(
    "more", [{"incarnation": 0, "stage": "joining: etcd"}, {"stage": "out: lease"}]
)
async def test_a_node_that_is_not_in_hands_over_nothing(
    given: Given, more: dict[str, object]
) -> None:
    given.core.left, given.core.more = 7, more
    await given.neighbour.hand_over(10)
    assert given.core.drained == 0


async def test_a_start_waits_for_the_cluster(
    given: Given, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.node.clustered._SAY_S", 0.0)
    given.core.more = {"incarnation": 0, "stage": "joining: etcd does not answer"}
    with caplog.at_level(logging.INFO):
        waiting = asyncio.ensure_future(given.neighbour.joined(lambda: False))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        given.core.more = {}
        await asyncio.wait_for(waiting, 5)
    assert vars(caplog.records[0])["reason"] == "etcd does not answer"


async def test_a_start_ends_when_it_is_over_or_cannot_be(given: Given) -> None:
    given.core.more = {"incarnation": 0, "stage": "joining"}
    await given.neighbour.joined(lambda: True)
    given.core.more = {"incarnation": 0, "stage": "failed: the clock of this machine is off"}
    with pytest.raises(ControlError, match=r"^the clock of this machine is off$"):
        await given.neighbour.joined(lambda: False)


@pytest.mark.parametrize(
    ("stage", "incarnation", "is_in"),
    [("in", 3, True), ("In(3)", 3, True), ("", 3, True), ("draining", 3, True), ("joining: x", 0, False),
     ("joining", 3, False), ("Out(Lease)", 3, False), ("failed", 0, False), ("in", 0, False)],
)  # fmt: skip
def test_who_is_in_is_known(stage: str, incarnation: int, is_in: bool) -> None:
    assert ClusterStatus(node="a", stage=stage, incarnation=incarnation).is_in is is_in


async def test_a_status_that_does_not_read_is_no_view(given: Given) -> None:
    given.core.more = {"epoch": "many"}
    assert given.neighbour.view() is None
    assert given.neighbour.health().incarnation == 0


def test_a_certificate_that_names_another_node_is_refused_with_its_line(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "ca")
    files = tls(authority, "b")
    text = (
        '[storage]\nbackend = "cassandra"\n[node]\nname = "a"\n[cluster]\nbackend = "etcd"\n'
        f'[cluster.tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
        f'key = "{files.key}"\n'
    )
    with pytest.raises(ControlError) as caught:
        refuse_bad_certificate(configured(tmp_path, text))
    assert str(caught.value) == (
        f"{tmp_path}/antiphon.toml:9: cluster.tls.certificate: {files.certificate} names b, *.b, and "
        "node.name is a; give it a subjectAltName of type DNS with that name"
    )
    refuse_bad_certificate(configured(tmp_path, text.replace('"a"', '"B"')))


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("ca", "8: cluster.tls.ca: {file} holds no certificate"),
        ("certificate", "10: cluster.tls.key: {key} is not the unencrypted key of {file}"),
        ("key", "10: cluster.tls.key: {file} is not the unencrypted key of {certificate}"),
    ],
)
def test_files_that_are_no_certificates_are_refused(tmp_path: Path, key: str, line: str) -> None:
    files = tls(Authority(tmp_path / "ca"), "a")
    broken = getattr(files, key)
    Path(broken).write_text("nonsense")
    text = (
        '[storage]\nbackend = "cassandra"\n[node]\nname = "a"\n[cluster]\nbackend = "etcd"\n'
        f'[cluster.tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
        f'key = "{files.key}"\n'
    )
    with pytest.raises(ControlError) as caught:
        refuse_bad_certificate(configured(tmp_path, text))
    said = line.format(file=broken, key=files.key, certificate=files.certificate)
    assert str(caught.value) == f"{tmp_path}/antiphon.toml:{said}"


def view() -> ClusterStatus:
    traffic = {"frames": 2, "stanzas": 20, "bytes": 200, "again": 1}
    link = {"node": "b", "class": "stanzas", "is_up": True, "queued_bytes": 5, "pending": 6,
            "resets": 3, "via": "c", "sent": traffic, "received": traffic}  # fmt: skip
    old = {**link, "is_up": False, "via": None, "incarnation": 1}
    more = {"refused_frames": 9, "tunnels": 2}
    text = json.dumps(status("a", {"a": "h:1", "b": "h:2"}, peers=[link, old], **more))
    found = read(text)
    assert found is not None
    return found


def test_every_metric_of_a_cluster_has_values() -> None:
    found = series(view())
    assert set(found) == set(names.CLUSTER)
    assert found[names.CLUSTER_SHARDS] == {("served",): 2048, ("coming",): 0, ("going",): 0}
    assert found[names.CLUSTER_PLANS] == {(): 1}
    assert found[names.CLUSTER_HANDOVERS][("taken_unclean",)] == 3
    assert found[names.CLUSTER_REFUSED] == {(): 9}
    assert found[names.RELAY_UP] == {("b", "stanzas"): 1}
    assert found[names.RELAY_DETOURS] == {("b", "stanzas"): 1}
    assert found[names.RELAY_TUNNELS] == {(): 2}
    assert found[names.RELAY_STANZAS][("b", "stanzas", "sent")] == 40
    assert found[names.ETCD_AGE] == {(): 0.1}
    for metric, values in found.items():
        assert all(len(labels) == len(metric.labels) for labels in values)


def test_a_scrape_asks_the_core_once_and_shows_nothing_it_does_not_know() -> None:
    asked: list[int] = []

    def look() -> ClusterStatus | None:
        asked.append(1)
        return view() if len(asked) == 1 else None

    meters = Meters()
    assert "antiphon_cluster" not in meters.text()
    measure(meters, look)
    text = meters.text()
    assert "antiphon_cluster_map_epoch 7\n" in text
    assert 'antiphon_relay_queued_bytes{peer="b",class="stanzas"} 10\n' in text
    assert asked == [1]


async def test_a_cancelled_stop_hands_over_no_further(given: Given) -> None:
    given.core.left = 10
    task = asyncio.ensure_future(given.neighbour.hand_over(60))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
