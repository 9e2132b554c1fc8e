# SPDX-License-Identifier: Apache-2.0
"""A node under its operator's hands: stopped, killed, reloaded, started where it cannot run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from support import ns
from support.antiphon import Antiphon, executable
from support.component import Component
from support.play import Clients, Servers
from support.server import Server, ServerFailed, Settings
from support.xml import E, message

pytestmark = pytest.mark.ours("our command line")

New = Callable[..., Server]
EXIT_S = 20.0


@pytest_asyncio.fixture
async def node(new_server: New) -> AsyncIterator[Antiphon]:
    """A node for one test alone."""
    server = new_server(node={"drain_seconds": 5})
    assert isinstance(server, Antiphon)
    yield server
    server.stop()


@pytest_asyncio.fixture
async def guests(node: Antiphon) -> AsyncIterator[Clients]:
    """Its clients."""
    made = Clients(node)
    yield made
    await made.close()


async def exit_code(node: Antiphon) -> int:
    """Waits until the node's process has ended."""
    assert node.process is not None
    return await asyncio.to_thread(node.process.wait, EXIT_S)


def tell(node: Antiphon, number: signal.Signals) -> None:
    """Sends the node a signal."""
    assert node.process is not None
    node.process.send_signal(number)


async def restarted(node: Antiphon) -> Clients:
    """The node's clients after it has been started again on the same data."""
    node.process = None
    await asyncio.to_thread(node.start)
    return Clients(node)


def log_lines(node: Antiphon, event: str) -> list[str]:
    """The log's lines about an event."""
    return [line for line in node.log_text().splitlines() if f'"event": "{event}"' in line]


async def logged(node: Antiphon, event: str, count: int = 1) -> list[str]:
    """Waits for the log's lines about an event."""
    for _ in range(200):
        found = log_lines(node, event)
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)
    pytest.fail(f"no {event!r} in the log:\n{node.log_text()}")


# -- a stop (SIGTERM) ---------------------------------------------------------------------


async def test_a_stop_tells_every_client_and_ends_in_time(node: Antiphon, guests: Clients) -> None:
    # RFC 6120 §4.9.3.20
    bound = [await guests.online(kind=kind) for kind in ("starttls", "direct", "wss")]
    component = await Component(node).login()
    silent = guests.raw()
    await silent.connect()
    opened = guests.raw()
    await opened.connect()
    await opened.open_stream()
    known = await guests.authenticated()
    shaking = guests.raw()
    await shaking.connect()
    await shaking.open_stream()
    shaking.send(E("starttls", ns.TLS))
    await shaking.expect("proceed")
    began = time.monotonic()
    tell(node, signal.SIGTERM)
    for client in (*bound, component, opened, known, silent):
        await client.expect_stream_error("system-shutdown")
        client.abort()
    await shaking.expect_eof()
    assert await exit_code(node) == 0
    assert time.monotonic() - began < 4, "nobody was left to wait for"


async def test_a_stop_does_not_wait_for_ever_for_those_who_do_not_close(
    node: Antiphon, guests: Clients
) -> None:
    client = await guests.online()
    client.pause()
    dead = await guests.online()
    tell(node, signal.SIGTERM)
    await dead.expect_stream_error("system-shutdown")
    began = time.monotonic()
    assert await exit_code(node) == 0
    assert time.monotonic() - began < 10


async def test_what_was_not_acknowledged_waits_for_the_restart(
    node: Antiphon, guests: Clients
) -> None:
    # XEP-0198 #scenarios: like messages to somebody offline
    sender = await guests.online()
    there, lost = await guests.bound(), await guests.bound()
    for client in (there, lost):
        await client.sm_enable()
        await client.online()
    lost.abort()
    await lost.expect_eof()
    for i in range(20):
        sender.send(message(there.jid, f"there {i}", type="chat"))
        sender.send(message(lost.jid, f"lost {i}", type="chat"))
    await there.expect("message", type="chat")
    await sender.sync()
    tell(node, signal.SIGTERM)
    await there.expect_stream_error("system-shutdown")
    assert await exit_code(node) == 0
    again = await restarted(node)
    for client, name in ((there, "there"), (lost, "lost")):
        back = await again.online(client)
        got = [(await back.expect("message")).body for _ in range(20)]
        assert got == [f"{name} {i}" for i in range(20)]
    await again.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "kill"])
async def test_nothing_acknowledged_is_lost(
    node: Antiphon, guests: Clients, number: signal.Signals
) -> None:
    # architecture §4: what `h` covers is committed
    absent = [await guests.online() for _ in range(3)]
    for client in absent:
        await client.close()
    sender = await guests.bound()
    await sender.sm_enable()
    sent = 0
    with contextlib.suppress(OSError):
        for _ in range(60):
            for _ in range(10):
                sender.send(message(absent[sent % 3].bare, str(sent), type="chat"))
                sent += 1
            sender.send(E("r", ns.SM))
            await asyncio.sleep(0)
            if sent == 300:
                for _ in range(100):
                    if sender.sm is not None and sender.sm.acked:
                        break
                    await asyncio.sleep(0.01)
                tell(node, number)
            if sender.eof or sender.closed_stream:
                break
    await exit_code(node)
    await sender.expect_eof()
    assert sender.sm is not None
    acked = sender.sm.acked
    assert acked > 0
    again = await restarted(node)
    kept: set[int] = set()
    for client in absent:
        back = await again.online(client)
        await back.sync()
        await asyncio.sleep(0.3)
        mine = [int(e.body or -1) for e in back.drain() if e.name == "message"]
        assert mine == sorted(mine)
        kept.update(mine)
    assert set(range(acked)) <= kept
    await again.close()


async def test_a_second_signal_ends_the_node_at_once(node: Antiphon, guests: Clients) -> None:
    client = await guests.online()
    tell(node, signal.SIGTERM)
    await client.expect_stream_error("system-shutdown")  # and the client keeps its connection
    began = time.monotonic()
    tell(node, signal.SIGTERM)
    assert await exit_code(node) == 1
    assert time.monotonic() - began < 2
    again = await restarted(node)
    await (await again.online(client)).sync()
    await again.close()


async def test_a_stopping_node_takes_nobody_in(node: Antiphon, guests: Clients) -> None:
    client = await guests.online()
    tell(node, signal.SIGTERM)
    await client.expect_stream_error("system-shutdown")
    for port in (node.ports.c2s, node.ports.direct, node.ports.http, node.ports.component):
        with pytest.raises(OSError):
            await asyncio.open_connection(node.address, port)
    client.abort()
    assert await exit_code(node) == 0


# -- a kill --------------------------------------------------------------------------------


async def test_a_killed_node_comes_back_with_everything(node: Antiphon, guests: Clients) -> None:
    romeo, juliet = await guests.online(), await guests.online()
    await guests.friends(romeo, juliet)
    await romeo.roster_set(juliet.bare, name="Juliet", groups=["Capulets"])
    absent = await guests.online()
    await absent.close()
    await romeo.sm_enable()
    romeo.send(message(absent.bare, "before the crash", type="chat"))
    for _ in range(100):
        if await romeo.sm_request() >= 1:
            break
        await asyncio.sleep(0.02)
    tell(node, signal.SIGKILL)
    await exit_code(node)
    again = await restarted(node)
    back = await again.bound(romeo)
    query = (await back.roster()).at(("query", ns.ROSTER))
    item = query.at("item")
    assert (item.get("jid"), item.get("name"), item.get("subscription")) == (
        juliet.bare,
        "Juliet",
        "both",
    )
    late = await again.online(absent)
    assert (await late.expect("message")).body == "before the crash"
    await again.close()


# -- a reload (SIGHUP) ------------------------------------------------------------------------


async def test_a_reload_takes_a_new_certificate_and_keeps_the_streams(
    node: Antiphon, guests: Clients
) -> None:
    old = await guests.online()
    before = old.transport.certificate()
    node.authority.server(node.domain, node.address)  # over the file that is configured
    tell(node, signal.SIGHUP)
    await logged(node, "configuration reloaded")
    for kind in ("starttls", "direct", "wss"):
        new = await guests.bound(kind=kind)
        assert new.transport.certificate() != before, kind
    await old.sync()
    other = await guests.online(node.account(node.settings.domains[1]))
    assert other.transport.certificate() != before


async def test_a_reload_changes_limits(node: Antiphon, guests: Clients) -> None:
    old = await guests.online()
    text = node.config.read_text()
    node.config.write_text(
        text.replace("[limits]", "[limits]\nstanza_bytes = 15000\nroster_items = 1")
    )
    tell(node, signal.SIGHUP)
    await logged(node, "configuration reloaded")
    await old.sync()
    new = await guests.online()
    assert new.features.at(("limits", ns.STREAM_LIMITS), "max-bytes").text == "15000"
    new.send(message(new.jid, "x" * 16_000))
    await new.expect_stream_error("policy-violation")
    assert (await old.roster_set(f"a@{old.host}")).type == "result"
    assert (await old.roster_set(f"b@{old.host}")).condition == "resource-constraint"


@pytest.mark.parametrize("fault", ["toml", "key", "certificate"])
async def test_a_reload_that_is_refused_changes_nothing_and_says_so_once(
    node: Antiphon, guests: Clients, fault: str
) -> None:
    client = await guests.online()
    before = client.transport.certificate()
    text = node.config.read_text()
    if fault == "toml":
        node.config.write_text("domains = [\n" + text)
    elif fault == "key":
        node.config.write_text(text + "\n[limits_]\nx = 1\n")
    else:
        bad = node.folder / "bad.pem"
        bad.write_text("no certificate at all\n")
        lines = [
            f'certificate = "{bad}"' if line.startswith("certificate") else line
            for line in text.splitlines()
        ]
        node.config.write_text("\n".join(lines))
    tell(node, signal.SIGHUP)
    await logged(node, "configuration refused")
    await asyncio.sleep(0.2)
    assert len(log_lines(node, "configuration refused")) == 1
    await client.sync()
    again = await guests.online()
    assert again.transport.certificate() == before
    node.config.write_text(text)
    tell(node, signal.SIGHUP)
    await logged(node, "configuration reloaded")
    await client.sync()


# -- a start that cannot be --------------------------------------------------------------------


def serve(node: Antiphon) -> subprocess.CompletedProcess[str]:
    """Starts the node to its failure."""
    return subprocess.run(
        [str(executable()), "serve", "--config", str(node.config)],
        capture_output=True,
        text=True,
        cwd=node.folder,
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1 and one line for the operator, the log's own lines left out."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def idle(servers: Servers) -> Antiphon:
    """A node that is configured and does not run."""
    built = servers.build(Settings())
    assert isinstance(built, Antiphon)
    built.write_config()
    return built


def migrated(node: Antiphon) -> Antiphon:
    """The same with the schema of its keyspace, where it has one: what is wrong is found later."""
    if node.keyspace:
        done = node.command("migrate")
        assert done.returncode == 0, done
    return node


def test_a_port_in_use_is_one_line(idle: Antiphon) -> None:
    with socket.socket() as taken:
        taken.bind((idle.address, idle.ports.direct))
        taken.listen()
        one_line(serve(migrated(idle)), str(idle.ports.direct))


def test_a_certificate_that_cannot_be_read_is_one_line(idle: Antiphon) -> None:
    folder = idle.folder / "none.pem"
    text = idle.config.read_text()
    first = next(line for line in text.splitlines() if line.startswith("certificate"))
    idle.config.write_text(text.replace(first, f'certificate = "{folder}"'))
    one_line(serve(idle), "none.pem")
    folder.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    one_line(serve(idle), "none.pem")


def test_a_key_of_another_certificate_is_one_line(idle: Antiphon) -> None:
    other = idle.authority.server("another.example")
    text = idle.config.read_text()
    first = next(line for line in text.splitlines() if line.startswith("key ="))
    idle.config.write_text(text.replace(first, f'key = "{other.key}"'))
    one_line(serve(idle), "another.example")


async def test_a_data_directory_of_a_running_node_is_one_line(
    node: Antiphon, guests: Clients, idle: Antiphon
) -> None:
    text = idle.config.read_text()
    idle.config.write_text(text.replace(str(idle.folder / "data"), str(node.folder / "data")))
    one_line(await asyncio.to_thread(serve, migrated(idle)), "data")
    await (await guests.online()).sync()


def test_a_data_directory_that_is_a_file_is_one_line(idle: Antiphon) -> None:
    (idle.folder / "data").write_text("")
    one_line(serve(idle), "data")


def test_a_data_directory_without_rights_is_one_line(idle: Antiphon) -> None:
    if os.geteuid() == 0:
        # root may write anywhere but where the kernel says no
        text = idle.config.read_text()
        idle.config.write_text(text.replace(str(idle.folder / "data"), "/proc/antiphon"))
        one_line(serve(idle), "/proc/antiphon")
        return
    (idle.folder / "data").mkdir(mode=0o500)
    one_line(serve(idle), "data")


def test_a_damaged_database_is_one_line(idle: Antiphon) -> None:
    if idle.keyspace:
        pytest.skip("the node has no database of its own")
    (idle.folder / "data").mkdir()
    (idle.folder / "data" / "antiphon.db").write_bytes(b"not a database" * 1000)
    one_line(serve(idle), "antiphon.db")


def test_a_node_that_could_not_start_starts_when_it_can(idle: Antiphon) -> None:
    with socket.socket() as taken:
        taken.bind((idle.address, idle.ports.component))
        taken.listen()
        with pytest.raises(ServerFailed):
            idle.start()
    idle.start()
    assert idle.stop() == 0
