# SPDX-License-Identifier: Apache-2.0
"""A plain chat message never enters Python: the crossing counter stays where it is."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.server import Server
from support.xml import E, message

pytestmark = pytest.mark.ours("the crossing counter")

COUNT = 10_000


def crossings(server: Server) -> int:
    """`antiphon_crossings_total`; the request for it is itself one crossing."""
    url = f"http://{server.address}:{server.ports.http}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("antiphon_crossings_total "):
                return int(float(line.split()[1]))
    pytest.fail("no such metric")


def expected(before: int) -> int:
    """The counter at the next look if nothing else crossed."""
    return before + 1


async def pipelined(sender: Client, receivers: list[Client], to: str, count: int) -> None:
    """Sends messages without waiting; every receiver gets all, in order."""
    quiet = [*receivers, sender]
    for client in quiet:
        client.drain()
    written = 0
    seen = {id(client): 0 for client in receivers}

    async def collect(client: Client) -> None:
        while seen[id(client)] < count:
            await client.wait_for(lambda: bool(client.inbox), 30, "message")
            for element in client.drain():
                number = seen[id(client)]
                carbon = element.child("sent", ns.CARBONS) or element.child("received", ns.CARBONS)
                found = (
                    element
                    if carbon is None
                    else carbon.at(("forwarded", ns.FORWARD), ("message", ns.CLIENT))
                )
                assert (found.name, found.id) == ("message", f"n{number}")
                seen[id(client)] += 1
            client.log.clear()

    tasks = [asyncio.create_task(collect(client)) for client in receivers]
    while written < count:
        batch = range(written, min(written + 100, count))
        sender.send_raw(
            "".join(
                f"<message to='{to}' type='chat' id='n{i}'><body>number {i}</body></message>"
                for i in batch
            )
        )
        sender.log.clear()
        written += len(batch)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def test_ten_thousand_messages_do_not_cross(
    clients: Clients, server: Server, romeo: Client, juliet: Client
) -> None:
    before = crossings(server)
    await pipelined(romeo, [juliet], juliet.jid, COUNT)
    await pipelined(juliet, [romeo], romeo.bare, 100)
    assert crossings(server) == expected(before)


async def test_carbons_do_not_cross(
    clients: Clients, server: Server, romeo: Client, juliet: Client
) -> None:
    copies = []
    for owner in (romeo, juliet):
        other = await clients.online(owner)
        reply = await other.iq("set", payload=E("enable", ns.CARBONS))
        assert reply.type == "result"
        copies.append(other)
    await asyncio.gather(*(client.sync() for client in (romeo, juliet, *copies)))
    before = crossings(server)
    await pipelined(romeo, [juliet, *copies], juliet.jid, 1_000)
    assert crossings(server) == expected(before)


async def test_offline_messages_do_not_cross(
    clients: Clients, server: Server, romeo: Client
) -> None:
    absent = await clients.bound()
    await absent.close()
    before = crossings(server)
    count = 900  # below offline_messages
    for i in range(count):
        romeo.send(message(absent.bare, f"number {i}", type="chat", id=f"n{i}"))
    await romeo.sync()
    late = await clients.bound(absent)
    await late.online()
    ids = [(await late.expect("message", timeout_s=20)).id for _ in range(count)]
    assert ids == [f"n{i}" for i in range(count)]
    assert crossings(server) == expected(before)


async def test_acknowledgements_do_not_cross(
    clients: Clients, server: Server, romeo: Client
) -> None:
    client = await clients.bound()
    await client.sm_enable()
    client.auto_ack = True
    await client.online()
    before = crossings(server)
    for i in range(500):
        romeo.send(message(client.jid, f"number {i}", type="chat", id=f"n{i}"))
    ids = [(await client.expect("message", timeout_s=20)).id for _ in range(500)]
    assert ids == [f"n{i}" for i in range(500)]
    assert crossings(server) == expected(before)
