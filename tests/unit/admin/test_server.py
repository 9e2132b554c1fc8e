"""Commands at the admin socket."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from antiphon.admin.protocol import Client, Unreachable
from antiphon.admin.server import MOST_UNDER_WAY, AdminSocket, CommandRunner, SocketTaken
from antiphon.commands import Command, CommandContext, CommandError, Parameter
from antiphon.metrics.export import Meters
from antiphon.metrics.names import ADMIN_COMMANDS

CONTEXT = cast("CommandContext", object())


async def echo(_ctx: CommandContext, text: str = "") -> str:
    if text == "wait":
        await asyncio.sleep(0.05)
    if text == "refuse":
        raise CommandError("conflict", "it exists already")
    if text == "fail":
        raise ValueError("not for operators")
    return text


COMMANDS = {
    "echo": Command(
        name="echo",
        summary="Says it again.",
        doc="",
        parameters=(Parameter(name="text", kind="text", doc="", is_required=False),),
        function=echo,
    )
}


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest_asyncio.fixture
async def path(tmp_path: Path, meters: Meters) -> AsyncIterator[Path]:
    where = tmp_path / "admin.sock"
    served = AdminSocket(where, CommandRunner(lambda: CONTEXT, meters, COMMANDS))
    await served.open()
    yield where
    await served.close()


async def test_a_command_gives_its_result(path: Path, meters: Meters) -> None:
    client = await Client.connect(path)
    assert await client.run("echo", {"text": "hello"}) == "hello"
    await client.close()
    assert meters.value(ADMIN_COMMANDS, "echo", "ok") == 1


async def test_only_the_owner_may_open_the_socket(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_many_commands_run_at_once_on_one_connection(path: Path) -> None:
    client = await Client.connect(path)
    started = asyncio.get_running_loop().time()
    await asyncio.gather(*(client.run("echo", {"text": "wait"}) for _ in range(MOST_UNDER_WAY)))
    assert asyncio.get_running_loop().time() - started < 1
    await client.close()


@pytest.mark.parametrize(
    ("command", "text", "condition", "line"),
    [
        ("echo", "refuse", "conflict", "it exists already"),
        ("echo", "fail", "internal-server-error", "echo failed; the node's log says why"),
        ("none", "", "feature-not-implemented", "there is no command none"),
    ],
)
async def test_a_refusal_is_a_condition_and_one_line(
    path: Path, command: str, text: str, condition: str, line: str
) -> None:
    client = await Client.connect(path)
    with pytest.raises(CommandError) as caught:
        await client.run(command, {"text": text} if text else {})
    assert (caught.value.condition, caught.value.message) == (condition, line)
    assert await client.run("echo", {"text": "still here"}) == "still here"
    await client.close()


async def test_a_line_that_is_no_request_is_answered_and_the_connection_lives(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b'nonsense\n{"id": 3, "command": "echo", "arguments": {"text": "x"}}\n')
    assert json.loads(await reader.readline())["condition"] == "bad-request"
    assert json.loads(await reader.readline()) == {"id": 3, "result": "x"}
    writer.close()


async def test_a_client_that_goes_in_the_middle_harms_nobody(path: Path) -> None:
    _reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b'{"id": 3, "command": "echo", "arguments": {"text": "wait"}}\n')
    await writer.drain()
    writer.close()
    client = await Client.connect(path)
    assert await client.run("echo", {"text": "x"}) == "x"
    await client.close()


async def test_without_a_node_the_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await Client.connect(tmp_path / "admin.sock")


async def test_a_second_node_finds_the_socket_taken(path: Path) -> None:
    with pytest.raises(SocketTaken):
        await AdminSocket(path, CommandRunner(lambda: CONTEXT, None, COMMANDS)).open()


async def test_the_socket_of_a_killed_node_is_replaced(tmp_path: Path) -> None:
    where = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(where))
    served = AdminSocket(where, CommandRunner(lambda: CONTEXT, None, COMMANDS))
    await served.open()
    client = await Client.connect(where)
    assert await client.run("echo", {"text": "x"}) == "x"
    await client.close()
    await served.close()
    assert not where.exists()


async def test_a_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    served = AdminSocket(folder / "admin.sock", CommandRunner(lambda: CONTEXT, None, COMMANDS))
    await served.open()
    client = await Client.connect(folder / "admin.sock")
    assert await client.run("echo", {"text": "x"}) == "x"
    await client.close()
    await served.close()


async def test_a_node_that_stops_ends_what_waits(path: Path, tmp_path: Path) -> None:
    where = tmp_path / "other.sock"
    served = AdminSocket(where, CommandRunner(lambda: CONTEXT, None, COMMANDS))
    await served.open()
    client = await Client.connect(where)
    waiting = asyncio.create_task(client.run("echo", {"text": "wait"}))
    await asyncio.sleep(0.01)
    await served.close()
    with pytest.raises(CommandError, match="closed its admin socket"):
        await waiting
    await client.close()
