# SPDX-License-Identifier: Apache-2.0
"""Control calls over real gRPC and TLS on loopback, nodes being fakes."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from antiphon import _core
from antiphon._core import Element
from antiphon.cluster.api import ControlError, Outlook
from antiphon.cluster.control import ControlPort
from antiphon.cluster.remote import NotHome, Remote
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import Jid
from tests.support.certs import Authority
from tests.unit.cluster.nodes import Fake, Nodes, tls

pytestmark = pytest.mark.skipif(
    not hasattr(_core, "certificate_names"), reason="the library is not built"
)

JULIET = Jid("juliet@chat.example")
IN = 10.0


@pytest_asyncio.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    found = Nodes(tmp_path)
    await found.open("a", "b")
    yield found
    await found.close()


async def test_a_node_tells_of_itself_and_of_the_cluster(nodes: Nodes) -> None:
    remote = nodes.remote("b")
    health = await remote.health(IN)
    assert (health.node, health.incarnation, health.is_ready) == ("b", 7, True)
    found, document = await remote.status(IN)
    assert [one.id for one in found.members] == ["a", "b"]
    assert isinstance(document, dict)
    assert document["epoch"] == found.epoch == 7
    assert found.leader_name == "a"


async def test_sessions_come_with_the_home_that_answered(nodes: Nodes) -> None:
    line = {"jid": f"{JULIET}/balcony", "priority": -1, "show": "away", "has_carbons": True}
    other = {"jid": f"{JULIET}/x", "priority": None, "show": None, "has_carbons": False}
    nodes.fakes["b"].values["user_sessions"] = [line, other]
    home, found = await nodes.remote("b").sessions(JULIET.with_resource("ignored"), IN)
    assert home == "b"
    assert [msgspec.to_builtins(one) for one in found] == [line, other]
    assert nodes.fakes["b"].asked == [("user_sessions", {"jid": str(JULIET)})]


async def test_sessions_are_ended(nodes: Nodes) -> None:
    nodes.fakes["b"].values["end_session"] = 2
    assert await nodes.remote("b").kick(JULIET, IN) == 2


async def test_a_refusal_keeps_its_condition(nodes: Nodes) -> None:
    nodes.fakes["b"].values["end_session"] = StanzaError("item-not-found", "there is none ü")
    with pytest.raises(StanzaError) as caught:
        await nodes.remote("b").kick(JULIET, IN)
    assert (caught.value.condition, caught.value.text) == ("item-not-found", "there is none ü")


async def test_a_fault_is_logged_there_and_one_line_here(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    nodes.fakes["b"].values["end_session"] = RuntimeError("secret")
    with pytest.raises(ControlError, match="the node's log says why") as caught:
        await nodes.remote("b").kick(JULIET, IN)
    assert "secret" not in str(caught.value)
    assert [one.msg for one in caplog.records] == ["control call failed"]


async def test_a_node_is_drained_once_and_its_log_says_by_whom(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    remote = nodes.remote("b")
    with caplog.at_level(logging.INFO):
        assert [await remote.drain(IN), await remote.drain(IN)] == [False, True]
        await remote.health(IN)
    said = [vars(one) for one in caplog.records]
    assert [(one["msg"], one["call"], one["by"]) for one in said] == [
        ("control call", "Drain", "a, *.a")
    ] * 2


async def test_the_planner_is_asked_to_look_again(nodes: Nodes) -> None:
    assert await nodes.remote("b").rebalance(IN) == Outlook(7, 1300, 1400, False)
    assert nodes.fakes["b"].asked == [("rebalance", None)]
    nodes.fakes["b"].outlook = None
    with pytest.raises(ControlError, match="this node does not plan"):
        await nodes.remote("b").rebalance(IN)


async def test_a_drain_is_taken_back(nodes: Nodes) -> None:
    remote = nodes.remote("b")
    assert not await remote.stay(IN)
    await remote.drain(IN)
    assert await remote.stay(IN)


async def test_a_reload_tells_what_is_wrong(nodes: Nodes) -> None:
    remote = nodes.remote("b")
    assert await remote.reload(IN) == ()
    nodes.fakes["b"].problems = ("antiphon.toml:1: x: unknown key",)
    assert await remote.reload(IN) == ("antiphon.toml:1: x: unknown key",)


async def test_the_level_of_the_log_is_set(nodes: Nodes) -> None:
    remote = nodes.remote("b")
    assert await remote.set_log_level("debug", IN) == "info"
    with pytest.raises(ControlError, match=r'node b at .* refuses: "loud" is no level'):
        await remote.set_log_level("loud", IN)


async def test_an_administrative_command_runs_there(nodes: Nodes) -> None:
    nodes.fakes["b"].values["count_accounts"] = 12
    assert await nodes.remote("b").run("count_accounts", {"domain": "x"}, IN) == 12
    assert nodes.fakes["b"].asked == [("count_accounts", {"domain": "x"})]


async def test_an_operation_runs_at_the_home_of_its_entity(nodes: Nodes) -> None:
    query = Element("query", "jabber:iq:roster", {"ver": "1"}, ["x"])
    value = (query, [JULIET], {"a": None}, b"\0", 1 << 59, True)
    for fake in nodes.fakes.values():
        fake.homes[str(JULIET)] = "b"
    nodes.fakes["b"].values["roster.get"] = value
    away = nodes.ports["a"].elsewhere
    arguments = (JULIET, None, "ver", [JULIET], (1, 2))
    assert away.is_away("roster.get", arguments)
    assert not away.is_away("roster.get", (Jid("romeo@chat.example"),))
    assert not away.is_away("account.list", ("chat.example", None))
    assert await away.call("roster.get", arguments) == value
    assert nodes.fakes["b"].asked == [("roster.get", arguments)]
    assert nodes.fakes["a"].asked == []


async def test_sessions_of_a_domain_are_those_of_all_nodes(nodes: Nodes) -> None:
    here, there = Jid("b@x/1"), [Jid("a@x/1"), Jid("c@x/1")]
    nodes.fakes["a"].values.update({"sessions.all": [here], "sessions.count": 1})
    nodes.fakes["b"].values.update({"sessions.all": there, "sessions.count": 2})
    ways = nodes.ports["a"].elsewhere
    assert ways.is_away("sessions.count", (None,))
    assert await ways.call("sessions.count", (None,)) == 3
    assert await ways.call("sessions.all", ("x", None, 10)) == [there[0], here, there[1]]
    assert await ways.call("sessions.all", ("x", None, 2)) == [there[0], here]
    await nodes.ports.pop("b").close(0)
    with pytest.raises(StanzaError, match=r"node b at .* connection refused") as caught:
        await ways.call("sessions.count", (None,))
    assert caught.value.condition == "remote-server-timeout"


async def test_a_node_in_another_life_is_connected_to_anew(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways, now = nodes.ports["a"].elsewhere, asyncio.get_running_loop().time()
    first = ways.to("b")
    assert ways.to("b") is first
    document = nodes.fakes["a"].status().replace('"incarnation": 2', '"incarnation": 9')
    monkeypatch.setattr(nodes.fakes["a"], "status", lambda: document)
    while ways.to("b") is first:
        assert asyncio.get_running_loop().time() < now + 5
        await asyncio.sleep(0.05)
    assert (await ways.to("b").health(IN)).node == "b"


async def test_an_operation_keeps_the_cores_condition(nodes: Nodes) -> None:
    nodes.fakes["a"].homes[str(JULIET)] = "b"
    nodes.fakes["b"].values["roster.set"] = StanzaError("resource-constraint", "full")
    with pytest.raises(StanzaError, match="full") as caught:
        await nodes.ports["a"].elsewhere.call("roster.set", (JULIET,))
    assert caught.value.condition == "resource-constraint"


async def test_a_node_that_is_not_the_home_refuses_and_does_nothing(nodes: Nodes) -> None:
    nodes.fakes["b"].homes[str(JULIET)] = "a"
    with pytest.raises(NotHome):
        await nodes.remote("b").call("roster.get", (JULIET,), IN)
    assert nodes.fakes["b"].asked == []


async def test_an_operation_waits_for_a_home_that_moves(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes.fakes["a"], nodes.fakes["b"]
    a.homes[str(JULIET)] = ""
    answers = iter(["", "b", "b", "a"])
    monkeypatch.setattr(a, "home", lambda _jid: next(answers, "a") or None)
    b.homes[str(JULIET)] = "a"
    a.values["x"] = "here"
    assert await nodes.ports["a"].elsewhere.call("x", (JULIET,)) == "here"
    assert b.asked == []


async def test_a_home_that_is_gone_is_waited_for_and_then_named(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.cluster.calls.LONGEST_S", 0.2)
    nodes.fakes["a"].homes[str(JULIET)] = "b"
    await nodes.ports.pop("b").close(0)
    with pytest.raises(StanzaError, match=r"try again: node b at .* connection refused") as caught:
        await nodes.ports["a"].elsewhere.call("x", (JULIET,))
    assert (caught.value.condition, caught.value.type) == ("resource-constraint", "wait")


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x90", b"\xc7\x00\x09", b"\x92"])
async def test_arguments_that_do_not_read_are_refused(nodes: Nodes, packed: bytes) -> None:
    remote = nodes.remote("b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("antiphon.cluster.packing.pack", lambda _value: packed)
        with pytest.raises(ControlError, match="refuses"):
            await remote.call("roster.get", (JULIET,), IN)
    assert nodes.fakes["b"].asked == []


async def test_an_unknown_operation_is_refused(nodes: Nodes) -> None:
    with pytest.raises(ControlError, match="no operation 'nonsense'"):
        await nodes.remote("b").call("nonsense", (JULIET,), IN)


async def test_a_call_ends_at_its_deadline(nodes: Nodes) -> None:
    with pytest.raises(ControlError, match=r"does not answer within 0\.2 s") as caught:
        await nodes.remote("b").call("stall", (JULIET,), 0.2)
    assert not caught.value.is_unreached


async def test_a_port_where_nobody_listens_is_one_line(nodes: Nodes) -> None:
    await nodes.ports.pop("b").close(0)
    with pytest.raises(ControlError) as caught:
        await nodes.remote("b").health(IN)
    assert str(caught.value) == (
        f"node b at {nodes.members['b']} does not answer: connection refused"
    )
    assert caught.value.is_unreached


async def test_a_certificate_of_another_authority_is_refused_on_both_sides(
    nodes: Nodes, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other", "Somebody else")
    with pytest.raises(ControlError, match="is not believed: its certificate is not of"):
        await nodes.remote("b", ca=stranger).health(IN)
    shown = nodes.material("a", stranger)
    mixed = msgspec.structs.replace(shown, ca=nodes.material("a").ca)
    remote = Remote("b", nodes.members["b"], mixed)
    nodes.remotes.append(remote)
    with pytest.raises(ControlError, match="refuses the certificate that was shown"):
        await remote.health(IN)
    assert nodes.fakes["b"].asked == []


async def test_a_node_under_anothers_address_is_named(nodes: Nodes) -> None:
    with pytest.raises(ControlError, match="is another one: its certificate does not name c"):
        await nodes.remote("b", meaning="c").health(IN)


async def test_strangers_at_the_port_get_nothing_and_harm_nobody(nodes: Nodes) -> None:
    host, _, port = nodes.members["b"].rpartition(":")
    context = ssl.create_default_context(cafile=str(nodes.authority.ca))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    for sent, security in ((b"GET / HTTP/1.1\r\n\r\n", None), (b"\0" * 300, None), (b"x", context)):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=security)
        writer.write(sent)
        with contextlib.suppress(OSError):
            assert b"antiphon" not in await asyncio.wait_for(reader.read(), IN)
        writer.close()
    assert (await nodes.remote("b").health(IN)).node == "b"
    assert nodes.fakes["b"].asked == []


async def test_a_name_that_is_no_member_gets_nothing(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    nodes.members.pop("a")
    remote = nodes.remote("b", by="x")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(ControlError, match="no node of this cluster is called so"):
                await remote.drain(IN)
    assert [one.msg for one in caplog.records] == ["control call refused"]
    assert not nodes.fakes["b"].is_draining


async def test_a_node_that_was_a_member_may_still_ask(nodes: Nodes) -> None:
    await nodes.remote("b").health(IN)
    nodes.members.pop("a")
    assert (await nodes.remote("b").health(IN)).node == "b"


async def test_a_name_counts_whatever_its_case(nodes: Nodes) -> None:
    assert (await nodes.remote("b", by="A").health(IN)).node == "b"


async def test_new_certificates_are_shown_from_the_next_connection_on(nodes: Nodes) -> None:
    first = nodes.remote("b")
    await first.health(IN)
    fresh = Authority(nodes.folder / "new", "The next one")
    nodes.authority.ca.write_bytes(nodes.authority.ca.read_bytes() + fresh.ca.read_bytes())
    made = tls(fresh, "b")
    old = nodes.authority.folder
    for name in ("b.crt", "b.key"):
        (old / name).write_bytes((fresh.folder / name).read_bytes())
    assert made.certificate is not None
    nodes.ports["b"].renew()
    assert (await first.health(IN)).node == "b"
    assert (await nodes.remote("b", ca=fresh).health(IN)).node == "b"


async def test_certificates_that_do_not_fit_leave_the_old_ones(nodes: Nodes) -> None:
    (nodes.authority.folder / "b.key").write_text("nonsense")
    with pytest.raises(ControlError, match=r"cluster\.tls\.key: .* is not the unencrypted key"):
        nodes.ports["b"].renew()
    assert (await nodes.remote("b").health(IN)).node == "b"


async def test_a_port_that_is_taken_is_named(nodes: Nodes) -> None:
    second = ControlPort(Fake("c"), tls(nodes.authority, "c"), nodes.members["b"])
    with pytest.raises(ControlError, match=r"cannot listen on .* see cluster.control_port"):
        await second.open()
    await second.close(0)
