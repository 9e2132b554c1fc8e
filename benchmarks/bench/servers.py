# SPDX-License-Identifier: Apache-2.0
"""The servers under load: each in its own folder and on its own loopback ports.

All of them have the same certificate, store SCRAM-SHA-256 keys of 4,096 rounds for the same
accounts, keep no archive, and limit nobody's rate.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO

DOMAIN = "localhost"
PASSWORD = "bench"
ITERATIONS = 4096
START_S = 60.0
STOP_S = 20.0


class ServerError(Exception):
    """A server is not installed, or does not start; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """What a server is given: its folder, the certificate, its first port and its processor."""

    folder: Path
    certificate: Path
    key: Path
    port: int
    cpu: int | None


def as_user(name: str) -> list[str]:
    """The words before a command that run it as this user, where we are root."""
    if os.getuid() != 0:
        return []
    try:
        pwd.getpwnam(name)
    except KeyError as err:
        raise ServerError(f"there is no user {name}") from err
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups"]


class Server(ABC):
    """One server; `start` it, load it, `stop` it."""

    name: str
    label: str
    tuning: str

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def plain(self) -> str:
        """Where clients connect without TLS."""
        return f"127.0.0.1:{self.place.port}"

    @property
    def direct(self) -> str:
        """Where they connect with direct TLS."""
        return f"127.0.0.1:{self.place.port + 1}"

    @property
    def pid(self) -> int:
        """The process whose family is measured. Raises ServerError before `start`."""
        if self._process is None:
            raise ServerError(f"{self.name} does not run")
        return self._process.pid

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """As the server tells it. Raises ServerError if it is not installed."""

    @abstractmethod
    def prepare(self, users: int) -> None:
        """Writes configuration and, where files do, accounts u0, u1, ..."""

    @abstractmethod
    def command(self) -> list[str]:
        """What runs it in the foreground."""

    def populate(self, users: int) -> None:
        """Makes the accounts of a running server; not needed where files did."""
        del users

    def start(self, users: int) -> None:
        """Prepares and starts it, and waits until it listens. Raises ServerError."""
        self.place.folder.mkdir(mode=0o755, parents=True)
        self.prepare(users)
        pinned = [] if self.place.cpu is None else ["taskset", "-c", str(self.place.cpu)]
        self._output = (self.place.folder / "output.txt").open("wb")
        self._process = subprocess.Popen(
            [*pinned, *self.command()],
            cwd=self.place.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HOME": str(self.place.folder)},
        )
        try:
            self._wait_for_ports()
            self.populate(users)
        except (OSError, ServerError) as err:
            text = (self.place.folder / "output.txt").read_text(errors="replace")[-2000:]
            self.stop()
            raise ServerError(f"{self.name} does not start: {err}\n{text}") from err

    def restart(self, users: int) -> None:
        """A new process with new data: its memory is that of nobody before. Raises ServerError."""
        self.stop()
        shutil.rmtree(self.place.folder)
        self.start(users)

    def _wait_for_ports(self) -> None:
        end = time.monotonic() + START_S
        for port in (self.place.port, self.place.port + 1):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if self._process is None or self._process.poll() is not None:
                        raise ServerError("it ended at once") from None
                    if time.monotonic() > end:
                        raise ServerError(f"nothing on port {port} after {START_S:.0f} s") from None
                    time.sleep(0.1)

    def stop(self) -> None:
        """Ends it and whatever it started: SIGTERM to its own group, SIGKILL if that is not enough.

        Some come with a shell around them that ends first, so the whole group is waited for.
        """
        process, self._process = self._process, None
        if process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
                if _is_gone(process, STOP_S):
                    break
        if self._output is not None:
            self._output.close()
            self._output = None

    def _give_to(self, user: str) -> None:
        if os.getuid() == 0:
            for path in (self.place.folder, *self.place.folder.rglob("*")):
                shutil.chown(path, user, user)


def _is_gone(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Whether a whole process group ends in time."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        process.poll()  # Reaps it: a zombie would still count.
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout or done.stderr).strip()


class Antiphon(Server):
    """Ours, with one worker thread: figures are for one core."""

    name = "antiphon"
    label = "Antiphon"
    tuning = "worker_threads = 1"

    @classmethod
    def version(cls) -> str:
        return _output_of(sys.executable, "-m", "antiphon", "--version").split()[-1]

    def prepare(self, users: int) -> None:
        place = self.place
        (place.folder / "antiphon.toml").write_text(
            f"""domains = ["{DOMAIN}"]
data_dir = "data"
[node]
name = "bench"
worker_threads = 1
[tls]
certificate = "{place.certificate}"
key = "{place.key}"
[[listener]]
kind = "c2s"
address = "{self.plain}"
tls = "none"
[[listener]]
kind = "c2s"
address = "{self.direct}"
tls = "direct"
[auth]
mechanisms = ["SCRAM-SHA-256", "PLAIN"]
scram_iterations = {ITERATIONS}
allow_plaintext = true
[log]
level = "warning"
[limits]
connections_per_address = 0
auth_failures_per_minute = 0
sessions_per_user = 0
stanzas_per_second = 0
bytes_per_second = 0
"""
        )
        lines = "".join(f"u{n}@{DOMAIN},{PASSWORD}\n" for n in range(users))
        done = subprocess.run(
            [sys.executable, "-m", "antiphon", "account", "import", "-"],
            cwd=place.folder,
            input=lines,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServerError(done.stderr.strip() or "accounts are not imported")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "antiphon", "serve"]


class Prosody(Server):
    """Debian's Prosody; the garbage collector's threshold makes it three times cheaper."""

    name = "prosody"
    label = "Prosody, tuned"
    tuning = 'gc = { mode = "incremental"; threshold = 300 }'
    modules = (
        "roster saslauth tls disco carbons pep private blocklist vcard4 vcard_legacy version "
        "uptime time ping register smacks csi_simple"
    )

    @classmethod
    def version(cls) -> str:
        if shutil.which("prosody") is None or shutil.which("prosodyctl") is None:
            raise ServerError("Prosody is not installed")
        return _output_of("dpkg-query", "-W", "-f=${Version}", "prosody") or "unknown"

    def prepare(self, users: int) -> None:
        place, data = self.place, self.place.folder / "data"
        accounts = data / DOMAIN / "accounts"
        accounts.mkdir(parents=True)
        modules = "; ".join(f'"{name}"' for name in self.modules.split())
        (place.folder / "prosody.cfg.lua").write_text(
            f"""daemonize = false
pidfile = "{place.folder}/prosody.pid"
data_path = "{data}"
log = {{ warn = "{place.folder}/prosody.log" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {place.port} }}
c2s_direct_tls_ports = {{ {place.port + 1} }}
s2s_ports = {{}}
http_ports = {{}}
https_ports = {{}}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
password_hash = "SHA-256"
default_iteration_count = {ITERATIONS}
storage = "internal"
limits = {{}}
{self.tuning}
ssl = {{ certificate = "{place.certificate}"; key = "{place.key}" }}
modules_enabled = {{ {modules} }}
modules_disabled = {{ "s2s"; "posix" }}
VirtualHost "{DOMAIN}"
"""
        )
        account = _prosody_account("a-salt-for-everybody")
        for number in range(users):
            (accounts / f"u{number}.dat").write_text(account)
        self._give_to("prosody")

    def command(self) -> list[str]:
        config = str(self.place.folder / "prosody.cfg.lua")
        return [*as_user("prosody"), "prosody", "-F", "--config", config]


def _prosody_account(salt: str) -> str:
    """An account as mod_auth_internal_hashed stores it: keys of RFC 5802 §3 in hexadecimal."""
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt.encode(), ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    return (
        f'return {{ ["iteration_count"] = {ITERATIONS}; ["salt"] = "{salt}"; '
        f'["stored_key"] = "{hashlib.sha256(client).hexdigest()}"; '
        f'["server_key"] = "{server.hex()}"; }};\n'
    )


class Ejabberd(Server):
    """Debian's ejabberd; its schedulers do not spin while they wait."""

    name = "ejabberd"
    label = "ejabberd, no spin"
    tuning = "+sbwt none +sbwtdcpu none +sbwtdio none"
    modules = (
        "mod_adhoc mod_admin_extra mod_blocking mod_caps mod_carboncopy mod_client_state "
        "mod_configure mod_disco mod_last mod_offline mod_ping mod_privacy mod_private "
        "mod_stream_mgmt mod_time mod_vcard mod_version"
    )

    @classmethod
    def version(cls) -> str:
        if shutil.which("ejabberdctl") is None:
            raise ServerError("ejabberd is not installed")
        return _output_of("dpkg-query", "-W", "-f=${Version}", "ejabberd") or "unknown"

    def prepare(self, users: int) -> None:
        place = self.place
        for name in ("spool", "log"):
            (place.folder / name).mkdir()
        modules = "\n".join(f"  {name}: {{}}" for name in self.modules.split())
        (place.folder / "ejabberd.yml").write_text(
            f"""hosts: [{DOMAIN}]
loglevel: warning
certfiles: ["{place.folder}/both.pem"]
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
language: en
listen:
  - {{ip: 127.0.0.1, port: {place.port}, module: ejabberd_c2s}}
  - {{ip: 127.0.0.1, port: {place.port + 1}, module: ejabberd_c2s, tls: true}}
  - ip: 127.0.0.1
    port: {place.port + 2}
    module: ejabberd_http
    request_handlers: {{"/api": mod_http_api}}
api_permissions:
  bench: {{from: [mod_http_api], who: all, what: "*"}}
modules:
{modules}
  mod_pubsub: {{plugins: [flat, pep]}}
  mod_roster: {{versioning: true}}
"""
        )
        (place.folder / "ejabberdctl.cfg").write_text(
            f"ERLANG_NODE=bench@{DOMAIN}\nINET_DIST_INTERFACE=127.0.0.1\n"
            f'ERL_DIST_PORT={place.port + 3}\nERL_OPTIONS="{self.tuning}"\n'
        )
        (place.folder / "inetrc").write_text("{lookup,[file,native]}.\n")
        both = place.folder / "both.pem"
        both.write_text(place.certificate.read_text() + place.key.read_text())
        self._give_to("ejabberd")

    def command(self) -> list[str]:
        folder = self.place.folder
        return [
            *as_user("ejabberd"), "ejabberdctl",
            "--config-dir", str(folder), "--config", str(folder / "ejabberd.yml"),
            "--ctl-config", str(folder / "ejabberdctl.cfg"),
            "--spool", str(folder / "spool"), "--logs", str(folder / "log"), "foreground",
        ]  # fmt: skip

    def populate(self, users: int) -> None:
        link = http.client.HTTPConnection("127.0.0.1", self.place.port + 2, timeout=30)
        for number in range(users):
            body = {"user": f"u{number}", "host": DOMAIN, "password": PASSWORD}
            link.request("POST", "/api/register", json.dumps(body))
            answer = link.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise ServerError(f"no account u{number}: {text}")
        link.close()


SERVERS: tuple[tuple[type[Server], int], ...] = (
    (Antiphon, 15222),
    (Prosody, 16222),
    (Ejabberd, 18222),
)
"""In the order of the tables, with the port from which on each looks for free ones."""

# A server's ports: plain, direct TLS, and two for its own administration.
_PORTS = 4


def first_port(preferred: int) -> int:
    """The first of four free ports in a row, below the ephemeral range: no client's collides."""
    for first in range(preferred, preferred + 400, 10):
        sockets = [socket.socket() for _ in range(_PORTS)]
        try:
            for offset, one in enumerate(sockets):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        else:
            return first
        finally:
            for one in sockets:
                one.close()
    raise ServerError(f"no free ports from {preferred} on")
