# SPDX-License-Identifier: Apache-2.0
"""What an event costs on its way into Python and back: CPU microseconds on the Python thread.

    python benchmarks/micro/crossing.py [--json]

Batches of 1, 16 and 256. `core`: a call into the core and its result, by `submit` and `drain`
alone. `bridge`: the same awaited through the bridge, with a future each. `iq`, `iq stored`: IQs of
a client of a running node, answered by a plain handler, and by one that awaits the store.
"""

from __future__ import annotations

import asyncio
import base64
import json
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from antiphon import _core
from antiphon.config.core import render_core
from antiphon.config.schema import Config
from antiphon.node.bridge import Bridge
from antiphon.xep._registry import Assembly, registry

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.accounts import PASSWORD, Accounts
from bench.ours import Antiphon
from bench.server import Place, Ports, ServerError
from run import certificate

BATCHES = (1, 16, 256)
WARMUP_S = 0.3
WINDOW_S = 1.5
PATIENCE_S = 10.0
TIME = b"<iq type='get' id='x' to='localhost'><time xmlns='urn:xmpp:time'/></iq>"
PRIVATE = (
    b"<iq type='get' id='x'><query xmlns='jabber:iq:private'>"
    b"<a xmlns='antiphon:bench'/></query></iq>"
)

Figures = dict[int, float]


class Watch:
    """CPU microseconds of an event: batches until the time is over, after a warm-up."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._events = 0
        self._is_warm = False
        self._begin()

    def _begin(self) -> None:
        self._events, self._begun, self._cpu_s = 0, time.monotonic(), self._clock_s()

    def is_on(self, events: int) -> bool:
        """Counts a batch; False when it was the last."""
        self._events += events
        past_s = time.monotonic() - self._begun
        if not self._is_warm and past_s >= WARMUP_S:
            self._is_warm = True
            self._begin()
            return True
        return past_s < WINDOW_S

    def result(self) -> float:
        """Call at once after the last batch."""
        return (self._clock_s() - self._cpu_s) * 1e6 / max(self._events, 1)


def per_event(run: Callable[[], int], clock_s: Callable[[], float]) -> float:
    """CPU microseconds of an event; `run` handles a batch and says how many it had."""
    watch = Watch(clock_s)
    while watch.is_on(run()):
        pass
    return watch.result()


def core_and_assembly(folder: str) -> tuple[_core.Core, Assembly, int]:
    """A core without listeners, started."""
    config = Config(data_dir=folder)
    assembly = registry().assemble(config)
    hosts, modules = assembly.core_hosts, assembly.core_modules
    core = _core.Core(render_core(config, assembly.declarations, hosts, modules, is_offline=True))
    return core, assembly, core.start()


def by_core(folder: str) -> Figures:
    """`submit` and `drain` alone."""
    core, _assembly, eventfd = core_and_assembly(folder)

    def batch(size: int) -> int:
        core.submit([(_core.ACT_CALL, n, "sessions.count", (None,)) for n in range(size)])
        left = size
        while left > 0:
            select.select([eventfd], [], [], PATIENCE_S)
            left -= sum(event[0] == _core.EV_RESULT for event in core.drain(256))
        return size

    try:
        return {n: per_event(lambda n=n: batch(n), time.thread_time) for n in BATCHES}  # type: ignore[misc]
    finally:
        core.stop(1.0)


async def by_bridge(folder: str) -> Figures:
    """The same through the bridge, every call awaited."""
    core, assembly, eventfd = core_and_assembly(folder)
    bridge = Bridge(core, assembly)
    bridge.start(eventfd)
    figures: Figures = {}
    for size in BATCHES:
        watch, done = Watch(time.thread_time), 0
        while watch.is_on(done):
            await asyncio.gather(*(bridge.call("sessions.count", None) for _ in range(size)))
            done = size
        figures[size] = watch.result()
    await bridge.close(1.0)
    await asyncio.to_thread(core.stop, 1.0)
    return figures


class Client:
    """A client that trusts the server to answer in order and on one line."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._rest = b""
        header = b"<stream:stream to='localhost' version='1.0' xmlns='jabber:client' "
        header += b"xmlns:stream='http://etherx.jabber.org/streams'>"
        proof = base64.b64encode(f"\0u0\0{PASSWORD}".encode())
        sasl = b"urn:ietf:params:xml:ns:xmpp-sasl"
        self._ask(header, b"features>")
        self._ask(b"<auth xmlns='%s' mechanism='PLAIN'>%s</auth>" % (sasl, proof), b"<success")
        self._ask(header, b"features>")
        bind = b"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
        self._ask(b"<iq type='set' id='b'>%s</iq>" % bind, b"<jid>")

    def _ask(self, request: bytes, wanted: bytes) -> None:
        self._socket.sendall(request)
        seen = b""
        while wanted not in seen:
            more = self._socket.recv(65536)
            if not more:
                raise ServerError(f"the server closed after {seen[-200:]!r}")
            seen += more

    def batch(self, request: bytes, size: int) -> int:
        """Sends an IQ `size` times at once and waits for as many answers."""
        self._socket.sendall(request * size)
        left = size
        while left > 0:
            seen = self._rest + self._socket.recv(262144)
            left -= seen.count(b"<iq ")
            self._rest = seen[-3:] if not seen.endswith(b">") else b""
        return size


def thread_cpu_s(pid: int) -> float:
    """Nanosecond clock of a process's first thread: the one that runs Python."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def by_node(folder: Path) -> dict[str, Figures]:
    """IQs of a client of a running node."""
    cert, key = certificate(folder)
    server = Antiphon(Place(folder / "node", cert, key, Ports(15_722).take(), None))
    server.start(Accounts(1))
    try:
        client = Client(server.place.port)
        return {
            name: {
                n: per_event(
                    lambda n=n, iq=iq: client.batch(iq, n),  # type: ignore[misc]
                    lambda: thread_cpu_s(server.pid),
                )
                for n in BATCHES
            }
            for name, iq in (("iq", TIME), ("iq stored", PRIVATE))
        }
    finally:
        server.stop()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="antiphon-crossing-") as name:
        folder = Path(name)
        figures = {
            "core": by_core(str(folder / "a")),
            "bridge": asyncio.run(by_bridge(str(folder / "b"))),
            **by_node(folder),
        }
    if "--json" in sys.argv[1:]:
        print(json.dumps(figures))
        return
    print("| CPU us an event, Python thread | " + " | ".join(f"batch {n}" for n in BATCHES) + " |")
    print("|---|" + "---|" * len(BATCHES))
    for name, row in figures.items():
        print(f"| {name} | " + " | ".join(f"{row[n]:.2f}" for n in BATCHES) + " |")


if __name__ == "__main__":
    main()
