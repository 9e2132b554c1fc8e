# SPDX-License-Identifier: Apache-2.0
"""A disk without room: a line in the log that says what to do, nothing acknowledged is lost, and it
goes on by itself when there is room again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cluster.support.network import Network
from cluster.support.node import DOMAIN, Node, Wiring
from cluster.support.site import PASSWORD, Site
from cluster.support.trial import note
from durability import wire_reader
from support.certs import Authority
from support.client import LIVE, Client
from support.endpoint import Account
from support.xml import message

SIZE_MIB = 32
PIECE = 64 * 1024
BEFORE, MEANWHILE, AFTER = range(20), range(20, 220), range(220, 240)
TEXT_BYTES = 3_000
ADVICE = "no room on the disk of data_dir"
GOES_ON_S = 10.0
LINES = 40
"""Of errors in the log, for hundreds of writes that fail: it may be on the same disk."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at a folder, small enough to be filled."""
    if os.geteuid() != 0:
        pytest.fail("a disk to fill needs root, to mount one: run these tests as root")
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={SIZE_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Without room for another byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (PIECE, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    try:
        assert os.statvfs(disk).f_bavail == 0
        yield
    finally:
        ballast.unlink()


@pytest.fixture
def alone(network: Network, tmp_path: Path) -> Iterator[Node]:
    """A node of its own with SQLite, its data on a small disk; not started."""
    LIVE.clear()
    folder = tmp_path / "alone"
    pair = Authority(tmp_path / "clients").server(DOMAIN)
    wiring = Wiring((), (), "", tmp_path / "none", pair)
    node = Node("alone", network.place("alone"), folder, wiring, pair, is_alone=True)
    with small_disk(folder / "data"):
        try:
            yield node
        finally:
            node.stop()


async def _online(node: Node, account: Account, resource: str) -> Client:
    client = Client(node.door, account)
    client.auto_ack = True
    await client.login(resource)
    await client.sm_enable()
    await client.roster()
    await client.online()
    return client


async def _write(sender: Client, receiver: Client, numbers: range) -> None:
    """Sends these and waits until each is handled (XEP-0198)."""
    for n in numbers:
        text = f"{n} {'x' * TEXT_BYTES}"
        sender.send(message(receiver.jid, text, type="chat", id=f"m{n}"))
        await asyncio.sleep(0.005)
    await _handled(sender)


async def _handled(sender: Client) -> None:
    assert sender.sm is not None
    for _ in range(round(GOES_ON_S / 0.1)):
        if await sender.sm_request() == sender.sm.sent:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("some are not handled")


def _refused(client: Client) -> set[int]:
    """Numbers of those that came back; the client has to be told that it may try again."""
    found = set()
    for one in client.inbox:
        if one.name == "message" and one.type == "error":
            error = one.at("error")
            assert (error.get("type"), error.condition) == ("wait", "resource-constraint"), error
            found.add(int((one.id or "m-1")[1:]))
    return found


async def test_a_node_whose_disk_is_full_says_so_loses_nothing_and_goes_on_when_it_is_not(
    alone: Node,
) -> None:
    await asyncio.to_thread(alone.start)
    people = [Account(f"{name}@{DOMAIN}", PASSWORD) for name in ("full", "disk")]
    await asyncio.to_thread(alone.create, people)
    sender, receiver = [await _online(alone, one, "phone") for one in people]
    await _write(sender, receiver, BEFORE)
    assert not _refused(sender)
    offset = alone.log_size
    with filled(alone.folder / "data"):
        await _write(sender, receiver, MEANWHILE)
        await asyncio.sleep(1.0)
        assert alone.is_ready(), "a node is not restarted for a full disk"
    said = [row for row in alone.log_since(offset).splitlines() if '"level": "error"' in row]
    assert any(ADVICE in row for row in said), said[:3]
    assert len(said) < LINES, f"{len(said)} lines of errors on a full disk"
    refused = _refused(sender)
    note("refused while the disk was full", "messages", len(refused))
    assert refused, "nothing was refused: was there room?"
    assert refused <= set(MEANWHILE)
    await _write(sender, receiver, AFTER)
    assert _refused(sender) == refused, "it does not go on by itself"
    await _asserts_kept(alone, people, refused)
    # What the next process finds.
    alone.kill()
    await asyncio.to_thread(alone.start)
    await _asserts_kept(alone, people, refused)
    for client in (sender, receiver):
        client.abort()


async def _asserts_kept(node: Node, people: list[Account], refused: set[int]) -> None:
    """Asserts that all that was acknowledged and not refused is in both archives, once, in order."""
    for account in people:
        rows = await wire_reader.archive(node.door, account)
        kept = [int(row.body.partition(" ")[0]) for row in rows]
        assert kept == sorted(set(kept)), "doubled or reordered"
        wanted = {*BEFORE, *MEANWHILE, *AFTER} - refused
        assert wanted <= set(kept), f"lost: {sorted(wanted - set(kept))[:5]}"


async def test_a_node_of_a_cluster_needs_no_room_on_its_disk(
    site: Site,
) -> None:
    b = site["b"]
    owner, other = await asyncio.to_thread(site.strangers, 2)
    b.terminate()
    assert await asyncio.to_thread(b.wait_end) == 0
    data = b.folder / "data"
    aside = b.folder / "data-aside"
    data.rename(aside)
    try:
        with small_disk(data):
            with filled(data):
                await asyncio.to_thread(b.start)
                await asyncio.to_thread(site.wait_settled)
                one = await site.online(b, owner, "phone", sm=True)
                two = await site.online(site["a"], other, "desk")
                for n in range(20):
                    one.send(message(two.jid, f"{n}", type="chat", id=f"d{n}"))
                    await two.expect("message", id=f"d{n}")
                await _handled(one)
                assert len(await wire_reader.rows(one)) == 20
                for client in (one, two):
                    await client.close()
            b.terminate()
            await asyncio.to_thread(b.wait_end)
    finally:
        b.kill()
        shutil.rmtree(data, ignore_errors=True)
        aside.rename(data)
    await asyncio.to_thread(b.start)
    await asyncio.to_thread(site.wait_settled)
