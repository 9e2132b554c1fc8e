# SPDX-License-Identifier: Apache-2.0
"""etcd as the command line asks it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from antiphon.cluster import etcd
from antiphon.cluster.status import EtcdMember
from antiphon.config.clustered import Etcd
from tests.unit.cluster.etcds import FakeEtcd
from tests.unit.cluster.nodes import free_port

RECORD = (
    b'{"id":"a","incarnation":7,"state":"up","version":"9","relay":"h:1","control":"h:2","x":1}'
)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeEtcd]:
    found = FakeEtcd()
    await found.open()
    yield found
    await found.close()


def options(*endpoints: str, user: str | None = None, password: str | None = None) -> Etcd:
    return Etcd(endpoints=endpoints, user=user, password=password)


async def test_members_tell_how_they_are(server: FakeEtcd) -> None:
    away = f"127.0.0.1:{free_port()}"
    answers, _nodes, fault = await etcd.ask(options(away, f"http://{server.address}/"))
    assert fault is None
    assert answers == [
        EtcdMember(endpoint=away, fault="connection refused"),
        EtcdMember(
            endpoint=f"http://{server.address}/", version="3.6.16", db_bytes=20_480, revision=9,
            is_leader=True, has_leader=True,
        ),
    ]  # fmt: skip


async def test_registered_nodes_are_read_and_garbage_is_left_out(server: FakeEtcd) -> None:
    server.keys = {
        b"/antiphon/map": b"x", b"/antiphon/nodes/a": RECORD, b"/antiphon/nodes/b": b"nonsense",
        b"/antiphon/nodes/c": RECORD, b"/antiphon/nodes0": RECORD, b"/other/nodes/a": RECORD,
    }  # fmt: skip
    for prefix in ("/antiphon", "/antiphon/"):
        given = Etcd(endpoints=(server.address,), prefix=prefix)
        _answers, nodes, _fault = await etcd.ask(given)
        assert [(one.id, one.incarnation, one.control) for one in nodes] == [("a", 7, "h:2")]


async def test_without_any_member_the_reasons_are_named() -> None:
    places = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    _answers, nodes, fault = await etcd.ask(options(*places))
    assert nodes == []
    assert fault == f"{places[0]}: connection refused; {places[1]}: connection refused"


async def test_a_member_that_hangs_keeps_nothing_back(server: FakeEtcd) -> None:
    hung = FakeEtcd(is_hung=True)
    await hung.open()
    server.keys = {b"/antiphon/nodes/a": RECORD}
    client = etcd.Client(options(hung.address, server.address))
    async with asyncio.timeout(1.5):
        assert [one.id for one in await client.nodes()] == ["a"]
    assert (await client.members())[0].fault == "no answer within 2 s"
    await client.close()
    await hung.close()


async def test_a_login_is_made_once(server: FakeEtcd) -> None:
    server.password = "p"
    client = etcd.Client(options(server.address, user="u", password="p"))
    assert await client.nodes() == []
    assert (await client.members())[0].fault is None
    assert server.logins == 1
    await client.close()


async def test_what_keeps_us_out_is_told(server: FakeEtcd) -> None:
    server.password = "p"
    _answers, _nodes, fault = await etcd.ask(options(server.address))
    assert fault is not None
    assert fault.endswith("user name is empty; see cluster.etcd.user and its role in etcd")
    _answers, _nodes, fault = await etcd.ask(options(server.address, user="u", password="x"))
    assert fault is not None
    assert fault.endswith("the login is refused; correct cluster.etcd.user and its password")
    server.may_read = False
    _answers, _nodes, fault = await etcd.ask(options(server.address, user="u", password="p"))
    assert fault is not None
    assert fault.endswith("permission denied; see cluster.etcd.user and its role in etcd")


async def test_what_is_no_etcd_is_told(server: FakeEtcd) -> None:
    server.version = ""
    answers, _nodes, _fault = await etcd.ask(options(server.address))
    assert answers[0].fault == "what answers there is no etcd"


async def test_a_certificate_that_is_missing_is_told() -> None:
    given = Etcd(endpoints=("https://h:1",), ca="/nowhere/ca.pem")
    answers, _nodes, fault = await etcd.ask(given)
    assert (
        answers[0].fault == fault == "cluster.etcd.ca: /nowhere/ca.pem: No such file or directory"
    )


@pytest.mark.parametrize(
    ("version", "is_old"), [("3.4.23", True), ("3.5.0", False), ("4.0", False), ("x", False)]
)
def test_an_old_version_is_known(version: str, is_old: bool) -> None:
    assert EtcdMember(endpoint="e", version=version).is_old is is_old
