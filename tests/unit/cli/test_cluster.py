# SPDX-License-Identifier: Apache-2.0
"""`antiphon cluster` against nodes and an etcd in memory, over real gRPC and TLS."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from antiphon import _core
from antiphon.cli.showing import table
from antiphon.cluster.api import Outlook
from antiphon.node import log as node_log
from antiphon.xmpp.errors import StanzaError
from tests.unit.cli.test_main import Ended, Shell, shell
from tests.unit.cluster.etcds import FakeEtcd
from tests.unit.cluster.nodes import Nodes, free_port, status, tls

pytestmark = pytest.mark.skipif(
    not hasattr(_core, "certificate_names"), reason="the library is not built"
)
__all__ = ["shell"]
T = TypeVar("T")


class Place:
    """Three nodes and an etcd on a loop of their own, and the configuration of node a."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.folder = folder
        self.nodes = Nodes(folder)
        self.etcd = FakeEtcd()
        self.do(self.nodes.open("a", "b", "c"))
        self.do(self.etcd.open())
        for name, address in self.nodes.members.items():
            record = {"id": name, "incarnation": 1, "state": "up", "control": address}
            self.etcd.keys[f"/antiphon/nodes/{name}".encode()] = json.dumps(record).encode()
        self.configure("a")

    def do(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def configure(self, name: str, port: int | None = None) -> None:
        files = tls(self.nodes.authority, name)
        control = port or int(self.nodes.members[name].rpartition(":")[2])
        (self.folder / "antiphon.toml").write_text(
            f'data_dir = "{self.folder}/data"\n[node]\nname = "{name}"\n'
            '[storage]\nbackend = "cassandra"\n'
            f'[cluster]\nbackend = "etcd"\nname = "chat"\ncontrol_port = {control}\n'
            f'[cluster.etcd]\nendpoints = ["{self.etcd.address}"]\n'
            f'[cluster.tls]\nca = "{files.ca}"\ncertificate = "{files.certificate}"\n'
            f'key = "{files.key}"\n'
        )

    def kill(self, *names: str) -> None:
        for name in names:
            self.do(self.nodes.ports.pop(name).close(0))

    def end(self) -> None:
        self.do(self.nodes.close())
        self.do(self.etcd.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture(autouse=True)
def _logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line sets up logging for its process; here other tests come behind."""
    monkeypatch.setattr(node_log, "configure", lambda _log: None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.end()


Run = Callable[..., Ended]


def test_the_screen_tells_that_nothing_is_wrong(shell: Shell, place: Place) -> None:
    for fake in place.nodes.fakes.values():
        fake.more = {"shards": {"all": 4095, "served": 1365, "by_node": dict.fromkeys("abc", 1365)}}
    ended = shell("cluster", "status")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == (
        "cluster chat, 3 of 3 nodes up, map 7, planner a, all of 4,095 shards owned, 30 sessions"
    )
    assert lines[2].split() == [
        "node", "state", "zone", "version", "shards", "coming", "going", "sessions", "lease",
        "etcd", "links",
    ]  # fmt: skip
    assert lines[3].split() == [
        "a", "*", "up", "-", "0.1.0", "1,365", "0", "0", "10", "8.5", "s", "0.1", "s", "2/2",
    ]  # fmt: skip
    assert f"{place.etcd.address}  leader  3.6.16   20.0 KiB" in ended.out
    assert lines[-1] == "nothing is wrong"
    assert max(map(len, lines)) <= 150


def test_the_screen_names_what_is_wrong_and_what_to_do(shell: Shell, place: Place) -> None:
    place.kill("c")
    link = {"node": "b", "class": "stanzas", "is_up": False, "queued_bytes": 2048, "resets": 4}
    place.nodes.fakes["a"].more = {"peers": [link, {**link, "is_up": True, "class": "bulk"}]}
    ended = shell("cluster", "status")
    assert ended.code == 0
    assert "links: 1 of 2 up, 4.0 KiB wait, 0 stanzas sent, 0 of them again" in ended.out
    assert "a > b  stanzas  down   2.0 KiB" in ended.out
    assert "ERROR: c does not answer control calls: node c at" in ended.out
    assert "ERROR: the link from a to b (stanzas) is down\n    the log of a says why" in ended.out
    assert "nothing is wrong" not in ended.out


def test_the_screen_tells_which_link_goes_over_a_third_node(shell: Shell, place: Place) -> None:
    place.nodes.fakes["a"].more = {"peers": [{"node": "b", "is_up": True, "via": "c"}]}
    ended = shell("cluster", "status")
    assert "a > b  stanzas  via c" in ended.out
    assert "warning: the link from a to b (stanzas) goes over c\n    a cannot reach" in ended.out


def test_scripts_get_the_document_of_the_node_and_more(shell: Shell, place: Place) -> None:
    document = json.loads(shell("cluster", "status", "--json").out)
    own = json.loads(json.dumps(status("a", place.nodes.members)))
    assert {key: document[key] for key in own if key != "etcd"} == {
        key: own[key] for key in own if key != "etcd"
    }
    assert document["etcd"] == own["etcd"]
    assert document["asked"] == "a"
    assert set(document["nodes"]) == {"a", "b", "c"}
    assert document["etcd_members"][0]["version"] == "3.6.16"
    assert [one["level"] for one in document["problems"]] == ["error"]
    assert document["ok"] is False


def test_without_its_own_node_the_others_are_asked(shell: Shell, place: Place) -> None:
    place.kill("a")
    document = json.loads(shell("cluster", "status", "--json").out)
    assert document["asked"] == "b"
    assert set(document["silent"]) == {"a"}


def test_without_any_node_etcd_still_tells_who_should_be_there(shell: Shell, place: Place) -> None:
    place.kill("a", "b", "c")
    ended = shell("cluster", "status")
    assert ended.code == 1
    assert "cluster chat, 3 of 3 nodes up" in ended.out
    assert ended.out.count("does not answer control calls") == 3
    for command in ("nodes", "shards", "rebalance"):
        ended = shell("cluster", command)
        assert ended.code == 1
        assert ended.err.startswith("antiphon: no node answers: node a at")
        assert ended.err.count("\n") == 1


def test_members_are_listed(shell: Shell, place: Place) -> None:
    ended = shell("cluster", "nodes")
    head, first, *_ = ended.out.splitlines()
    assert head.split() == [
        "node", "state", "zone", "version", "incarnation", "relay", "control",
    ]  # fmt: skip
    assert first.split() == ["a", "up", "-", "0.1.0", "1", "127.0.0.1:1", place.nodes.members["a"]]
    listed = json.loads(shell("cluster", "nodes", "--json").out)
    assert [(one["id"], one["is_answering"]) for one in listed] == [
        ("a", True), ("b", True), ("c", True),
    ]  # fmt: skip


def test_shards_are_counted_by_node(shell: Shell, place: Place) -> None:
    assert shell("cluster", "shards").out.splitlines() == [
        "node  owned   share  served  coming  going",
        "a     1,365  33.3 %   1,365       0      0",
        "b     1,365  33.3 %   1,365       0      0",
        "c     1,365  33.3 %   1,365       0      0",
        "1 of 4,096 shards have no owner",
    ]
    document = json.loads(shell("cluster", "shards", "--json").out)
    assert document["owned"] == {"a": 1365, "b": 1365, "c": 1365}
    assert document["nodes"]["b"] == {"served": 1365, "coming": 0, "going": 0}


def test_a_node_is_drained_and_waited_for(shell: Shell, place: Place) -> None:
    fake = place.nodes.fakes["c"]
    fake.more = {"shards": {"all": 4096, "served": 0, "by_node": {"a": 4096}}}
    ended = shell("cluster", "drain", "c")
    assert (ended.code, fake.is_draining) == (0, True)
    assert ended.out.startswith("c holds nothing after ")
    document = json.loads(shell("cluster", "drain", "c", "--json").out)
    assert (document["was_draining"], document["is_drained"]) == (True, True)


def test_a_drain_that_takes_too_long_says_what_is_left(shell: Shell, place: Place) -> None:
    ended = shell("cluster", "drain", "c", "--timeout", "1")
    assert (ended.code, ended.out) == (
        1, "c still holds 1365 shards; see antiphon cluster status\n",
    )  # fmt: skip
    ended = shell("cluster", "drain", "b", "--timeout", "0")
    assert (ended.code, ended.out) == (0, "b gives away what it holds\n")


def test_a_drain_is_taken_back(shell: Shell, place: Place) -> None:
    shell("cluster", "drain", "b", "--timeout", "0")
    assert shell("cluster", "drain", "b", "--cancel").out == (
        "b takes clients and gets its share of shards again\n"
    )
    assert shell("cluster", "drain", "b", "--cancel").out == "b did not drain\n"


def test_a_drain_of_nobody_names_the_members(shell: Shell, place: Place) -> None:
    assert shell("cluster", "drain", "d") == Ended(
        1, "", "antiphon: d is no member of the cluster; there are a, b, c\n"
    )


def test_the_planner_is_asked_to_look_again(shell: Shell, place: Place) -> None:
    place.nodes.fakes["a"].more = {"leader": 2}
    place.nodes.fakes["b"].more = {"leader": 2, "epoch": 8}
    assert shell("cluster", "rebalance").out == "b: 7 shards move (1,300 to 1,400 shards a node)\n"
    assert place.nodes.fakes["b"].asked == [("rebalance", None)]
    for outlook, said in (
        (Outlook(0, 1365, 1366, False), "nothing to move: shards are balanced (1,365 to 1,366 "),
        (Outlook(7, 0, 2048, True), "7 shards are to move once etcd has been there for a while (0"),
        (Outlook(0, 0, 0, False), "its version looks at the shares anew and does not tell"),
    ):
        place.nodes.fakes["b"].outlook = outlook
        ended = shell("cluster", "rebalance")
        assert (ended.code, ended.out[: len(said) + 3]) == (0, f"b: {said}")
    assert place.nodes.fakes["a"].asked == []


def test_nodes_read_their_configuration_again(shell: Shell, place: Place) -> None:
    assert shell("cluster", "reload", "b").out == "b has reloaded\n"
    place.nodes.fakes["b"].problems = ("antiphon.toml:1: x: unknown key",)
    place.kill("c")
    ended = shell("cluster", "reload")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[:2] == ["a has reloaded", "b refuses: antiphon.toml:1: x: unknown key"]
    assert lines[2].startswith("node c at")
    document = json.loads(shell("cluster", "reload", "--json").out)
    assert document["a"] == {"is_taken": True, "problems": []}
    assert document["b"]["problems"] == ["antiphon.toml:1: x: unknown key"]
    assert "refused" in document["c"]["problems"][0]


def test_nodes_log_more(shell: Shell, place: Place) -> None:
    ended = shell("cluster", "log-level", "debug", "a", "b")
    assert ended.out.splitlines() == [
        "a logs from debug on, before info", "b logs from debug on, before info",
    ]  # fmt: skip
    assert shell("cluster", "log-level", "loud").code == 2
    assert json.loads(shell("cluster", "log-level", "debug", "a", "--json").out) == {
        "a": {"was": "info", "is": "debug"}
    }


@pytest.mark.parametrize("command", ["status", "nodes", "shards"])
def test_a_lone_node_says_so_in_one_line(shell: Shell, command: str) -> None:
    Path("antiphon.toml").write_text('[node]\nname = "a"\n')
    assert shell("cluster", command).out == 'node a is alone: cluster.backend is "local"\n'
    document = json.loads(shell("cluster", command, "--json").out)
    assert document == {"backend": "local", "node": "a"}


@pytest.mark.parametrize("command", [("drain", "a"), ("rebalance",)])
def test_a_lone_node_cannot_be_drained(shell: Shell, command: tuple[str, ...]) -> None:
    Path("antiphon.toml").write_text('[node]\nname = "a"\n')
    ended = shell("cluster", *command)
    assert (ended.code, ended.err) == (1, 'antiphon: node a is alone: cluster.backend is "local"\n')


def test_accounts_of_a_cluster_are_changed_through_a_node_that_runs(
    shell: Shell, place: Place
) -> None:
    place.kill("a")
    place.nodes.fakes["b"].values["list_accounts"] = []
    assert shell("account", "list", "localhost").code == 0
    assert place.nodes.fakes["b"].asked[0][0] == "list_accounts"
    place.nodes.fakes["b"].values["delete_account"] = StanzaError("item-not-found", "there is none")
    ended = shell("account", "delete", "x@localhost")
    assert (ended.code, ended.err) == (1, "antiphon: there is none\n")


def test_nothing_is_changed_while_it_is_not_known_who_runs(shell: Shell, place: Place) -> None:
    place.kill("a", "b", "c")
    ended = shell("account", "delete", "x@localhost")
    assert ended.code == 1
    assert ended.err.startswith("antiphon: no node of the cluster answers: node a at")
    place.do(place.etcd.close())
    ended = shell("account", "delete", "x@localhost")
    assert ended.code == 1
    assert ended.err.endswith("; nothing was changed\n")


def test_check_looks_at_etcd_and_the_nodes_certificate(shell: Shell, place: Place) -> None:
    place.configure("a", free_port())

    def problems() -> dict[str, str]:
        document = json.loads(shell("check", "--json").out)
        return {one["key"]: f"{one['level']}: {one['text']}" for one in document["problems"]}

    found = problems()
    assert not any(key.startswith("cluster") for key in found)
    text = (place.folder / "antiphon.toml").read_text()
    (place.folder / "antiphon.toml").write_text(text.replace('name = "a"', 'name = "d"'))
    assert "and node.name is d; give it" in problems()["cluster.tls.certificate"]
    (place.folder / "antiphon.toml").write_text(text)
    place.etcd.version = "3.3.1"
    assert problems()["cluster.etcd.endpoints[0]"].endswith("too old; 3.5 or later is needed")
    place.etcd.version, place.etcd.may_read = "3.6.0", False
    assert "etcd cannot be read" in problems()["cluster.etcd.endpoints"]
    place.do(place.etcd.close())
    assert problems()["cluster.etcd.endpoints[0]"].startswith("error: etcd at 127.0.0.1")
    taken = problems()
    place.configure("b")
    assert "cluster.control_port" not in taken
    assert "another program has this port" in problems()["cluster.control_port"]


def test_columns_are_as_wide_as_they_need() -> None:
    assert table(("a", "b"), [("x", "1"), ("long", "22")], right=(1,)) == [
        "a      b", "x      1", "long  22",
    ]  # fmt: skip
