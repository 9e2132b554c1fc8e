# SPDX-License-Identifier: Apache-2.0
"""The life of a core as Python sees it: queue, actions, start, reload, stop, and its end."""

from __future__ import annotations

import gc
import math
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon import _core
from antiphon._core import ConfigError, Core, Element, Jid, Stanza
from tests.unit.core.support import Peer, address, changed, create, document, needs_library, wait

pytestmark = needs_library

CAPACITY = 8_192
"""Events that wait for Python (rust/node/src/bridge.rs)."""
Running = tuple[Core, int]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    core = Core(document(tmp_path))
    yield core, core.start()
    core.stop(1)


def call(running: Running, operation: str, *arguments: object) -> tuple[int, object, object]:
    """(kind, a, b) of the event that ends a call."""
    core, eventfd = running
    core.submit([(_core.ACT_CALL, 7, operation, arguments)])
    while True:
        ready, _, _ = select.select([eventfd], [], [], 10)
        assert ready, operation
        for kind, ticket, a, b in core.drain():
            if ticket == 7 and kind in (_core.EV_RESULT, _core.EV_FAILED):
                return kind, a, b


# -- configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("unknown", 1),
        ("hosts", []),
        ("hosts", [{"domain": "localhost"}]),
        ("limits", {}),
        ("node_name", None),
        ("listeners", [{"kind": "smtp", "address": "127.0.0.1:0", "tls": "none"}]),
        ("listeners", [{"kind": "c2s", "address": "nowhere", "tls": "none"}]),
        ("storage", {"backend": "paper"}),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, key: str, value: object) -> None:
    text = changed(document(tmp_path), lambda parsed: parsed.update({key: value}))
    with pytest.raises(ConfigError) as caught:
        Core(text).start()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "null"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Core(text)


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def change(parsed: dict[str, object]) -> None:
            listeners = parsed["listeners"]
            assert isinstance(listeners, list)
            listeners[1]["address"] = f"127.0.0.1:{port}"

        text = changed(document(tmp_path), change)
        with pytest.raises(ConfigError, match=str(port)):
            Core(text).start()
    core = Core(document(tmp_path))  # the same data directory
    core.start()
    core.stop(1)


def test_a_data_directory_has_one_core(running: Running, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data"):
        Core(document(tmp_path)).start()
    assert call(running, "account.count", "localhost")[1] == 0


def test_a_core_starts_once(running: Running) -> None:
    with pytest.raises(ConfigError):
        running[0].start()


def test_a_core_that_does_not_run_takes_no_actions(tmp_path: Path) -> None:
    core = Core(document(tmp_path))
    with pytest.raises(RuntimeError):
        core.submit([])
    assert core.drain() == []
    assert core.addresses() == []
    assert core.metrics() == ""
    core.stop_accepting()
    core.stop(1)
    core.start()
    core.stop(1)
    core.stop(1)
    with pytest.raises(RuntimeError):
        core.submit([])
    assert core.metrics() == ""


@pytest.mark.parametrize("deadline", [0, -1, 1e300, math.inf, math.nan])
def test_any_deadline_will_do(tmp_path: Path, deadline: float) -> None:
    core = Core(document(tmp_path))
    core.start()
    core.stop(deadline)


def test_a_reload_that_is_refused_changes_nothing(running: Running, tmp_path: Path) -> None:
    core, eventfd = running
    create(core, eventfd, "romeo")
    for text in (
        "{}",
        changed(document(tmp_path), lambda parsed: parsed.update(hosts=[])),
        document(tmp_path).replace("cert.pem", "none.pem"),
    ):
        with pytest.raises(ConfigError):
            core.reload(text)
    Peer(core).login("romeo").close()
    core.reload(document(tmp_path, sessions_per_user=1))
    Peer(core).login("romeo").close()


# -- actions and events ------------------------------------------------------------------------


BAD_ACTIONS: list[tuple[type[Exception], tuple[object, ...]]] = [
    (ValueError, (99,)),
    (ValueError, (0, 1)),
    (TypeError, ("1", 2, None)),
    (OverflowError, (_core.ACT_REPLY, -1, None)),
    (TypeError, (_core.ACT_REPLY, 1, "payload")),
    (IndexError, (_core.ACT_REPLY, 1)),
    (ValueError, (_core.ACT_FAIL, 1, "no-such-condition", None, None, None)),
    (ValueError, (_core.ACT_FAIL, 1, "not-allowed", "no-type", None, None)),
    (TypeError, (_core.ACT_FAIL, 1, "not-allowed", None, None, "app")),
    (ValueError, (_core.ACT_SEND, Stanza("message"))),
    (ValueError, (_core.ACT_SEND, Stanza("message", to=Jid("a@localhost")))),
    (TypeError, (_core.ACT_SEND, "message")),
    (ValueError, (_core.ACT_CALL, 1, "no.such", ())),
    (TypeError, (_core.ACT_CALL, 1, "account.exists", ())),
    (TypeError, (_core.ACT_CALL, 1, "account.exists", (1,))),
    (ValueError, (_core.ACT_CALL, 1, "account.exists", ("@@",))),
    (ValueError, (_core.ACT_CALL, 1, "map.get", ("a@localhost", "no kind", "k"))),
    (TypeError, (_core.ACT_REQUEST, 1, None, 1.0)),
    (TypeError, (_core.ACT_HTTP, 1, "200", [], b"")),
    (TypeError, (_core.ACT_CAPS, 1, 2)),
]


@pytest.mark.parametrize(("error", "action"), BAD_ACTIONS)
def test_an_action_of_the_wrong_shape_is_refused_and_the_ones_before_are_done(
    running: Running, error: type[Exception], action: tuple[object, ...]
) -> None:
    core, eventfd = running
    good = (_core.ACT_CALL, 5, "account.exists", ("nobody@localhost",))
    with pytest.raises((TypeError, ValueError, error)):
        core.submit([good, action, good])
    assert wait(core, eventfd, _core.EV_RESULT)[0][1:3] == (5, False)
    time.sleep(0.05)
    assert [e for e in core.drain() if e[0] == _core.EV_RESULT] == []


def test_answers_to_nobody_are_taken(running: Running) -> None:
    core, _ = running
    core.submit(
        [
            (_core.ACT_REPLY, 12345, None),
            (_core.ACT_FAIL, 12345, "not-allowed", "cancel", "text", Element("a", "urn:a")),
            (_core.ACT_HTTP, 12345, 200, [("a", "b")], b""),
            (_core.ACT_CAPS, "sha-1", "x"),
        ]
    )


def test_a_request_is_answered_with_the_payload(running: Running) -> None:
    core, eventfd = running
    create(core, eventfd, "romeo")
    peer = Peer(core).login("romeo")
    peer.send("<iq type='get' id='a' to='localhost'><q xmlns='urn:test' k='v'>x</q></iq>" * 2)
    first, second = wait(core, eventfd, _core.EV_IQ, 2)
    asked = first[2]
    assert isinstance(asked, Stanza)
    assert (asked.kind, asked.type, asked.id) == ("iq", "get", "a")
    assert (asked.frm, asked.to) == (Jid("romeo@localhost/r"), Jid("localhost"))
    assert asked.payload == Element("q", "urn:test", {"k": "v"}, ["x"])
    assert asked.session is not None
    assert first[3] == 0, "the handler's number"
    core.submit(
        [
            (_core.ACT_REPLY, first[1], Element("answer", "urn:test")),
            (_core.ACT_FAIL, second[1], "not-allowed", None, "no", Element("why", "urn:test")),
        ]
    )
    assert "<answer xmlns='urn:test'/>" in peer.until("</iq>")
    error = peer.until("</iq>")
    assert all(part in error for part in ("not-allowed", "type='cancel'", "no</text>", "<why"))
    peer.close()


def test_a_request_of_ours_is_answered_or_runs_out(running: Running) -> None:
    core, eventfd = running
    create(core, eventfd, "romeo")
    peer = Peer(core).login("romeo")
    to = Jid("romeo@localhost/r")
    ask = Stanza("iq", type="get", frm=Jid("localhost"), to=to, children=[Element("q", "urn:x")])
    core.submit([(_core.ACT_REQUEST, 1, ask, 30.0), (_core.ACT_REQUEST, 2, ask, 0.0)])
    id_ = peer.until("<q xmlns='urn:x'/>").split("id='")[1].split("'")[0]
    peer.send(f"<iq type='result' id='{id_}' to='localhost'/>")
    ticket, answer = wait(core, eventfd, _core.EV_RESULT)[0][1:3]
    assert ticket == 1
    assert isinstance(answer, Stanza)
    assert (answer.type, answer.frm) == ("result", to)
    assert wait(core, eventfd, _core.EV_FAILED)[0][1:3] == (2, "remote-server-timeout")
    peer.close()


def test_a_full_queue_refuses_requests_and_not_results(running: Running) -> None:
    core, eventfd = running
    create(core, eventfd, "romeo")
    peer = Peer(core).login("romeo")
    reader = threading.Thread(target=lambda: peer.until("id='last'"), daemon=True)
    reader.start()
    ask = "<iq type='get' id='{}' to='localhost'><q xmlns='urn:test'/></iq>"
    peer.send("".join(ask.format(i) for i in range(CAPACITY + 100)))
    peer.send("<iq type='get' id='last' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    reader.join(20)
    assert not reader.is_alive()
    assert "antiphon_requests_refused_total 100" in core.metrics()
    core.submit([(_core.ACT_CALL, 1, "account.count", ("localhost",))])
    events: list[tuple[int, int, object, object]] = []
    while not any(e[0] == _core.EV_RESULT for e in events):
        assert select.select([eventfd], [], [], 10)[0]
        batch = core.drain()
        assert len(batch) <= 256
        events += batch
    assert sum(e[0] == _core.EV_IQ for e in events) == CAPACITY
    core.submit([(_core.ACT_REPLY, e[1], None) for e in events if e[0] == _core.EV_IQ])
    peer.send(ask.format("again"))
    wait(core, eventfd, _core.EV_IQ)
    peer.close()


def test_the_eventfd_is_readable_while_events_wait(running: Running) -> None:
    core, eventfd = running
    for ticket in range(300):
        core.submit([(_core.ACT_CALL, ticket, "account.count", ("localhost",))])
    seen = 0
    while seen < 300:
        assert select.select([eventfd], [], [], 10)[0]
        seen += sum(e[0] == _core.EV_RESULT for e in core.drain(7))
    assert core.drain() == []
    assert select.select([eventfd], [], [], 0)[0] == []
    assert core.crossings() == 300


def test_every_operation_has_a_decoder(running: Running) -> None:
    core, _ = running
    for name in _core.OPERATIONS:
        action = (_core.ACT_CALL, 1, name, ())
        if name == "node.stats":
            core.submit([action])
            continue
        with pytest.raises(TypeError, match="argument 1 is missing"):
            core.submit([action])


def test_accounts_and_values_go_both_ways(running: Running) -> None:
    def value(operation: str, *arguments: object) -> object:
        kind, a, _ = call(running, operation, *arguments)
        assert kind == _core.EV_RESULT, a
        return a

    romeo = Jid("romeo@localhost")
    assert value("account.create", romeo, "secret") is None
    assert call(running, "account.create", romeo, "x")[1] == "conflict"
    assert call(running, "account.create", Jid("j@localhost"), "")[1] == "not-acceptable"
    assert value("account.exists", romeo) is True
    assert value("account.verify", romeo, "secret") is True
    assert value("account.verify", romeo, "wrong") is False
    assert value("account.count", "localhost") == 1
    listed = value("account.list", "localhost", None, 10)
    assert isinstance(listed, list)
    assert listed[0][:2] == (romeo, True)
    assert value("account.enable", romeo, False) is None
    assert value("account.state", romeo) is False
    assert value("account.state", Jid("nobody@localhost")) is None
    assert value("map.get", romeo, "vcard", "") is None
    assert value("map.put", romeo, "vcard", "k", b"\0\xff") is None
    assert value("map.get", romeo, "vcard", "k") == b"\0\xff"
    assert value("map.keys", romeo, "vcard", "") == ["k"]
    assert value("map.put", romeo, "vcard", "k", b"") is None
    assert value("map.keys", romeo, "vcard", "") == []
    assert value("offline.count", romeo) == 0
    assert value("sessions.count", None) == 0
    stats = value("node.stats")
    assert isinstance(stats, dict)
    assert stats["sessions"] == 0
    assert value("account.delete", romeo) is None
    assert call(running, "account.delete", romeo)[1] == "item-not-found"


def test_an_http_request_is_answered(running: Running) -> None:
    core, eventfd = running
    with socket.create_connection(address(core, "http"), 10) as peer:
        peer.sendall(
            b"POST /livez?a=%20b HTTP/1.1\r\nHost: x\r\nX-Test: 1\r\nContent-Length: 3\r\n\r\nabc"
        )
        _, ticket, request, _ = wait(core, eventfd, _core.EV_HTTP)[0]
        assert isinstance(request, _core.HttpRequest)
        assert (request.method, request.path, request.query) == ("POST", "/livez", "a=%20b")
        assert (request.body, request.peer, request.is_secure) == (b"abc", "127.0.0.1", False)
        assert ("x-test", "1") in request.headers
        core.submit([(_core.ACT_HTTP, ticket, 201, [("x-answer", "2")], b"body")])
        head, _, body = peer.recv(65_536).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 ")
        assert b"x-answer: 2" in head
        assert body == b"body"


@pytest.mark.parametrize("status", [0, 99, 1000])
def test_an_answer_that_is_none_becomes_a_fault(running: Running, status: int) -> None:
    core, eventfd = running
    with socket.create_connection(address(core, "http"), 10) as peer:
        peer.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        ticket = wait(core, eventfd, _core.EV_HTTP)[0][1]
        core.submit([(_core.ACT_HTTP, ticket, status, [("a b", "\n")], b"")])
        assert peer.recv(65_536).startswith(b"HTTP/1.1 500 ")


# -- the end -------------------------------------------------------------------------------------


def test_a_stop_under_load_ends_in_time_and_answers_everybody(tmp_path: Path) -> None:
    core = Core(document(tmp_path))
    eventfd = core.start()
    create(core, eventfd, "romeo", "juliet")
    peers = [Peer(core).login(name) for name in ("romeo", "juliet")]
    is_over = threading.Event()

    def talk(peer: Peer, to: str) -> None:
        text = f"<message to='{to}@localhost' type='chat'><body>x</body></message>" * 20
        ask = "<iq type='get' id='i' to='localhost'><q xmlns='urn:test'/></iq>"
        try:
            while not is_over.is_set():
                peer.send(text + ask)
        except OSError:
            pass

    def listen(peer: Peer, ends: list[bytes]) -> None:
        last = b""
        try:
            while octets := peer.socket.recv(65_536):
                last = (last + octets)[-2000:]
        except OSError:
            pass
        ends.append(last)

    ends: list[bytes] = []
    threads = [threading.Thread(target=talk, args=(peers[0], "juliet"), daemon=True)]
    threads += [threading.Thread(target=talk, args=(peers[1], "romeo"), daemon=True)]
    threads += [threading.Thread(target=listen, args=(peer, ends), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    core.submit(
        [(_core.ACT_CALL, i, "account.verify", ("romeo@localhost", "x")) for i in range(50)]
    )
    time.sleep(0.3)
    began = time.monotonic()
    core.stop(5)
    assert time.monotonic() - began < 12
    is_over.set()
    for thread in threads:
        thread.join(10)
    assert len(ends) == 2
    assert all(b"system-shutdown" in end for end in ends), ends
    while core.drain():
        pass  # what was queued can still be taken
    for peer in peers:
        peer.close()


def test_two_cores_live_side_by_side(tmp_path: Path) -> None:
    cores = [Core(document(tmp_path / name)) for name in "ab"]
    pairs = [(core, core.start()) for core in cores]
    create(*pairs[0], "romeo")
    create(*pairs[1], "juliet")
    for (core, _), name in zip(pairs, ("romeo", "juliet"), strict=True):
        Peer(core).login(name).close()
    assert call(pairs[0], "account.exists", "juliet@localhost")[1] is False
    cores[0].stop(1)
    assert call(pairs[1], "account.exists", "juliet@localhost")[1] is True
    Peer(cores[1]).login("juliet").close()
    cores[1].stop(1)


def threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_two_hundred_starts_and_stops_leave_nothing_behind(tmp_path: Path) -> None:
    text = document(tmp_path)

    def cycle(number: int) -> None:
        core = Core(text)
        core.start()
        if number % 20 == 0:
            with socket.create_connection(address(core, "c2s"), 5):
                pass
        core.stop(2)

    cycle(0)
    gc.collect()
    before = threads(), descriptors()
    for number in range(200):
        cycle(number)
    gc.collect()
    for _ in range(100):
        if threads() <= before[0]:
            break
        time.sleep(0.05)  # the kernel takes a joined thread off the list a little later
    assert (threads(), descriptors()) <= before


SCRIPT = """
import sys, threading, time
from pathlib import Path
from antiphon import _core
from tests.unit.core.support import Peer, create, document
folder, how = Path(sys.argv[1]), sys.argv[2]
core = _core.Core(document(folder))
eventfd = core.start()
create(core, eventfd, "romeo")
peer = Peer(core).login("romeo")
peer.send("<iq type='get' id='a' to='localhost'><q xmlns='urn:test'/></iq>" * 100)
core.submit([(_core.ACT_CALL, i, "account.verify", ("romeo@localhost", "x")) for i in range(100)])
if how == "thread":
    def drain():
        while True:
            core.drain()
            core.metrics()
    threading.Thread(target=drain, daemon=True).start()
    time.sleep(0.1)
elif how == "dropped":
    del core
elif how == "raises":
    raise SystemExit(3)
print("end", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "code"), [("running", 0), ("thread", 0), ("dropped", 0), ("raises", 3)]
)
def test_the_interpreter_ends_with_work_in_flight(tmp_path: Path, how: str, code: int) -> None:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "python")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done
    assert done.stderr == ""
    core = Core(document(tmp_path))  # the data directory is free, and sound
    eventfd = core.start()
    assert call((core, eventfd), "account.exists", "romeo@localhost")[1] is True
    core.stop(1)
