# SPDX-License-Identifier: Apache-2.0
"""Nodes that are not let in: each says why, and the cluster goes on as it is."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.support import clock
from cluster.support.authority import ClusterAuthority
from cluster.support.node import Node
from cluster.support.site import Site
from support.antiphon import Table
from support.xml import message

REFUSED_S = 25.0
PROTOCOL = 1
"""What nodes of this version speak; neighbours work together (rust/cluster/src/member.rs)."""


@pytest.fixture
def outsider(site: Site) -> Node:
    """A node that is told something wrong; not started."""
    pair = site.authority.node("z")
    return Node("z", site.network.place("z"), site.folder / "z", site.wiring, pair)


async def refused(site: Site, node: Node, *words: str, by_peers: tuple[str, ...] = ()) -> None:
    """Asserts that a node is kept out, and that it says why; with `by_peers` those inside too."""
    before = {one.name: one.log_size for one in site.nodes.values()}
    node.spawn()
    deadline = time.monotonic() + REFUSED_S
    try:
        while True:
            own = node.log_text(tail=50_000).lower()
            others = "".join(one.log_since(before[one.name]) for one in site.nodes.values()).lower()
            is_told = any(word in own for word in words)
            if is_told and (not by_peers or any(word in others for word in by_peers)):
                break
            assert not node.is_ready(), "it serves"
            assert time.monotonic() < deadline, (
                f"not told why: {words}, by the others {by_peers}:\n{own}\nothers:\n{others[-3000:]}"
            )
            await asyncio.sleep(0.3)
        assert not node.is_ready()
        members = await asyncio.to_thread(lambda: site.statuses([site["a"]])["a"].members)
        assert members.get("z") != "up"
    finally:
        node.kill()
        shutil.rmtree(node.folder, ignore_errors=True)


async def test_a_certificate_of_another_authority_is_refused(
    site: Site, outsider: Node, tmp_path: Path
) -> None:
    outsider.identity = ClusterAuthority(tmp_path, "somebody else").node("z")
    await refused(site, outsider, "certificate", by_peers=("certificate", "handshake", "tls"))
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])


async def test_a_certificate_that_names_another_node_is_refused(site: Site, outsider: Node) -> None:
    outsider.identity = site.authority.node("y", label="z-as-y")
    await refused(site, outsider, "names y, and node.name is z")


async def test_a_node_of_another_cluster_is_refused(site: Site, outsider: Node) -> None:
    table: Table = {"name": "another"}
    outsider.extra = {"cluster": table}
    await refused(site, outsider, "another", by_peers=("another",))


async def test_sqlite_beside_etcd_is_refused_by_check_and_at_start(
    site: Site, outsider: Node
) -> None:
    outsider.extra = {"storage": {"backend": "sqlite"}}
    outsider.write_config()
    checked = outsider.command("check")
    assert checked.returncode != 0
    assert "sqlite" in (checked.stdout + checked.stderr).lower()
    started = outsider.command("serve", timeout_s=20)
    assert started.returncode != 0
    assert "sqlite" in (started.stdout + started.stderr).lower()


async def test_a_certificate_that_has_ended_is_refused(site: Site, outsider: Node) -> None:
    outsider.identity = site.authority.node("z", label="z-old", days=-1)
    await refused(site, outsider, "has expired")


@pytest.mark.parametrize("ahead_s", [0.9, -0.9])
async def test_a_clock_that_is_off_is_refused(
    site: Site, outsider: Node, tmp_path: Path, ahead_s: float
) -> None:
    outsider.environment = clock.off_by(ahead_s, tmp_path)
    await refused(site, outsider, "clock", by_peers=("clock",))


async def test_a_clock_that_is_a_little_off_is_let_in(
    site: Site, outsider: Node, tmp_path: Path
) -> None:
    outsider.environment = clock.off_by(0.2, tmp_path)
    try:
        await asyncio.to_thread(outsider.start)
    finally:
        outsider.stop()
        shutil.rmtree(outsider.folder, ignore_errors=True)
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])


@pytest.fixture
def stranger(site: Site) -> Iterator[dict[str, int]]:
    """A member y in etcd that speaks a version of the protocol too far off.

    Yields how long the log of each node was before.
    """
    keys = site.etcd.keys()
    (known,) = (key for key in keys if key.endswith("/nodes/a"))
    record = json.loads(keys[known])
    record |= {"id": "y", "state": "joining", "version": "9.9.9", "protocol": PROTOCOL + 2}
    record |= {"incarnation": record["incarnation"] + 1_000, "relay": "127.0.0.1:9"}
    key = f"{known[:-1]}y"
    before = {one.name: one.log_size for one in site.nodes.values()}
    site.etcd.put(key, json.dumps(record).encode())
    yield before
    site.etcd.delete(key)


async def test_a_version_too_far_off_is_refused(
    site: Site, outsider: Node, stranger: dict[str, int]
) -> None:
    """That those inside refuse what speaks another version, `test_forged.py` shows."""
    await refused(
        site, outsider, f"node y (9.9.9) speaks version {PROTOCOL + 2} of the protocol, this one"
    )
    inside = f"node y speaks version {PROTOCOL + 2} of the protocol"
    for name, size in stranger.items():
        async with asyncio.timeout(REFUSED_S):
            while inside not in site[name].log_since(size):
                await asyncio.sleep(0.1)
        (line, *_) = (x for x in site[name].log_since(size).splitlines() if inside in x)
        assert "upgrade one version at a time" in line


@pytest.fixture
def garbage(site: Site) -> Iterator[str]:
    """Where something listens that is no etcd."""
    with socket.create_server((site.network.outside, 0)) as server:
        thread = threading.Thread(target=_rubbish, args=(server,), daemon=True)
        thread.start()
        yield "{}:{}".format(*server.getsockname()[:2])


def _rubbish(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone")
            connection.close()


async def test_an_etcd_that_answers_garbage_is_told_and_nothing_follows_from_it(
    site: Site, outsider: Node, garbage: str
) -> None:
    outsider.extra = {"cluster.etcd": {"endpoints": (garbage,)}}
    await refused(site, outsider, "is no etcd v3")


async def test_an_etcd_that_is_full_is_told_with_what_to_do_and_users_notice_nothing(
    site: Site, outsider: Node
) -> None:
    owner, other = await asyncio.to_thread(site.strangers, 2)
    clients = [await site.online(site[n], p, "desk") for n, p in (("a", owner), ("b", other))]
    before = await asyncio.to_thread(site.wait_still)
    site.etcd.set_full(True)
    try:
        await refused(site, outsider, "etcdctl alarm disarm")
        clients[0].send(message(clients[1].jid, "still?", type="chat", id="still"))
        await clients[1].expect("message", id="still")
    finally:
        site.etcd.set_full(False)
    assert await asyncio.to_thread(site.wait_still) == before, "a decision was taken on it"
    for client in clients:
        assert not client.eof
        await client.close()


async def test_an_endpoint_that_answers_garbage_among_good_ones_keeps_nobody_out(
    site: Site, outsider: Node, garbage: str
) -> None:
    outsider.extra = {"cluster.etcd": {"endpoints": (garbage, *site.etcd.endpoints)}}
    try:
        await asyncio.to_thread(outsider.start)
    finally:
        outsider.stop()
        shutil.rmtree(outsider.folder, ignore_errors=True)
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])


async def test_a_node_whose_name_was_taken_comes_back_when_it_is_free_again(site: Site) -> None:
    b = site["b"]
    b.freeze()
    await asyncio.to_thread(
        site.wait_settled, site["a"], site["c"], members=["a", "c"], timeout_s=40.0
    )
    pair = site.authority.node("b", label="twin")
    twin = Node("b", site.network.place("z"), site.folder / "twin", site.wiring, pair)
    try:
        await asyncio.to_thread(twin.start)
        before = b.log_size
        b.thaw()
        deadline = time.monotonic() + REFUSED_S
        while "cluster not joined" not in b.log_since(before):
            assert time.monotonic() < deadline, "it does not say that it is kept out"
            await asyncio.sleep(0.3)
        assert not await asyncio.to_thread(b.is_ready)
    finally:
        twin.kill()
        shutil.rmtree(twin.folder, ignore_errors=True)
    await asyncio.to_thread(b.wait_ready, 60.0)
    await asyncio.to_thread(site.wait_settled, members=["a", "b", "c"])
