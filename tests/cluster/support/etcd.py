# SPDX-License-Identifier: Apache-2.0
"""A real etcd of three members: started, killed, frozen, asked how much was written."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.server import ROOT

from .network import Place

CLIENTS, PEERS = 2379, 2380
START_S = 30.0
PREFIX = "/antiphon/"


class EtcdFailed(Exception):
    """etcd is not there or does not come up; the message says what to do."""


NEW, OLD = "etcd", "etcd35"
"""The series of `tests/deps/go.sh`: 3.6, and the oldest that nodes work with."""


def program(series: str) -> Path:
    """The etcd that `tests/deps/go.sh` builds, or `ANTIPHON_TEST_ETCD`."""
    given = os.environ.get("ANTIPHON_TEST_ETCD")
    if given:
        return Path(given)
    done = subprocess.run(
        [ROOT / "tests" / "deps" / "go.sh", series], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise EtcdFailed(done.stderr.strip() or f"tests/deps/go.sh {series} failed")
    return Path(done.stdout.strip().splitlines()[-1])


@dataclass
class Member:
    """One process of etcd; may be down."""

    name: str
    place: Place
    folder: Path
    peers: str
    """All members, as `--initial-cluster` wants them."""
    series: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{self.place.address}:{CLIENTS}"

    def start(self) -> None:
        """Starts it, or starts it again on what it has."""
        assert self.process is None, f"{self.name} runs"
        mine = f"http://{self.place.address}"
        words = {
            "name": self.name,
            "data-dir": str(self.folder),
            "listen-client-urls": f"{mine}:{CLIENTS}",
            "advertise-client-urls": f"{mine}:{CLIENTS}",
            "listen-peer-urls": f"{mine}:{PEERS}",
            "initial-advertise-peer-urls": f"{mine}:{PEERS}",
            "initial-cluster": self.peers,
            "initial-cluster-state": "new",
            "log-level": "warn",
        }
        arguments = [f"--{key}={value}" for key, value in words.items()]
        # Only processes are killed here, never the machine: what the kernel has is kept.
        arguments.append("--unsafe-no-fsync")
        with self.folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.place.prefix, str(program(self.series)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def signal(self, number: signal.Signals) -> None:
        """Freezes it, lets it go on, or asks it to end."""
        assert self.process is not None, f"{self.name} does not run"
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; its data stay."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, path: str, question: dict[str, object]) -> dict[str, object]:
        """A call by its JSON gateway. Raises `OSError` where it does not answer."""
        request = urllib.request.Request(
            f"http://{self.endpoint}{path}", json.dumps(question).encode(), method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=3) as answer:
            document: dict[str, object] = json.load(answer)
            return document


@dataclass
class Etcd:
    """All members."""

    members: list[Member]
    folder: Path
    down: set[str] = field(default_factory=set)
    """Frozen, by name."""

    @classmethod
    def at(cls, places: Sequence[Place], series: str = NEW) -> Etcd:
        """A member at each of these places; not started."""
        folder = Path(tempfile.mkdtemp(prefix="antiphon-etcd-"))
        peers = ",".join(f"{place.name}=http://{place.address}:{PEERS}" for place in places)
        return cls([Member(p.name, p, folder / p.name, peers, series) for p in places], folder)

    @property
    def endpoints(self) -> list[str]:
        """Where clients reach it."""
        return [member.endpoint for member in self.members]

    def start(self) -> None:
        """Starts what does not run, and waits until it answers. Raises `EtcdFailed`."""
        for member in self.members:
            if member.process is None:
                member.start()
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                self.revision()
                return
            except (OSError, EtcdFailed):
                time.sleep(0.05)
        log = self.members[0].folder.with_suffix(".log").read_text(errors="replace")[-2000:]
        raise EtcdFailed(f"etcd does not come up:\n{log}")

    def pause(self) -> None:
        """Freezes every member: calls neither fail nor end."""
        for member in self.members:
            member.signal(signal.SIGSTOP)
            self.down.add(member.name)

    def resume(self) -> None:
        """Lets all go on."""
        for member in self.members:
            if member.name in self.down and member.process is not None:
                member.signal(signal.SIGCONT)
        self.down.clear()

    def kill(self) -> None:
        """Ends every member at once: calls are refused."""
        for member in self.members:
            member.kill()

    def heal(self) -> None:
        """Everything runs again."""
        self.resume()
        self.start()

    def close(self) -> None:
        """Ends it and removes its data."""
        self.resume()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _range(self, question: dict[str, object]) -> dict[str, object]:
        """An answer of the first member that gives one. Raises `EtcdFailed`."""
        said = "no member runs"
        for member in self.members:
            if member.process is None or member.name in self.down:
                continue
            try:
                return member.ask("/v3/kv/range", question)
            except (OSError, urllib.error.URLError) as error:
                said = f"{member.name}: {error}"
        raise EtcdFailed(said)

    def revision(self) -> int:
        """How many transactions have written anything since the beginning, plus one."""
        header = self._range({"key": _coded("\0")})["header"]
        assert isinstance(header, dict)
        return int(header["revision"])

    def keys(self, prefix: str = PREFIX) -> dict[str, bytes]:
        """What is stored below a prefix."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._range({"key": _coded(prefix), "range_end": _coded(end)})
        rows = answer.get("kvs", [])
        assert isinstance(rows, list)
        return {
            base64.b64decode(row["key"]).decode(): base64.b64decode(row.get("value", ""))
            for row in rows
        }

    def put(self, key: str, value: bytes) -> None:
        """Writes a key as somebody might who has access to etcd."""
        coded = base64.b64encode(value).decode()
        self.members[0].ask("/v3/kv/put", {"key": _coded(key), "value": coded})

    def set_full(self, is_full: bool) -> None:
        """Raises or takes back the alarm of a member whose quota is used up: nobody may write."""
        member = self.members[0]
        header = member.ask("/v3/maintenance/status", {})["header"]
        assert isinstance(header, dict)
        action = "ACTIVATE" if is_full else "DEACTIVATE"
        alarm = {"action": action, "memberID": header["member_id"], "alarm": "NOSPACE"}
        member.ask("/v3/maintenance/alarm", alarm)

    def delete(self, key: str) -> None:
        """Removes a key."""
        self.members[0].ask("/v3/kv/deleterange", {"key": _coded(key)})


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
