# SPDX-License-Identifier: Apache-2.0
"""TLS under attack: a public scanner's verdict, injection, slow and half handshakes, floods.

Case 8 of README.md. The scanner is sslyze, in a folder of its own (`tests/deps/sslyze.sh`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from support import ns
from support.client import Client, StreamClosed
from support.hostile import Bystanders, header, opened, resident_kb, settled_kb
from support.play import Clients
from support.sasl import plain
from support.server import ROOT, Server

pytestmark = pytest.mark.ours("the configuration of TLS is ours")

SCANNER = ROOT / ".cache" / "sslyze" / "bin" / "python"
SCANS = (
    "sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression heartbleed openssl_ccs robot reneg "
    "fallback early_data ems elliptic_curves certinfo"
)
STRONG = ("TLS_AES_", "TLS_CHACHA20_", "TLS_ECDHE_")
WEAK = ("CBC", "RC4", "3DES", "NULL", "EXPORT", "anon", "MD5")
WEAK_CURVES = {"secp192r1", "prime192v1", "secp224r1", "secp160r1", "sect163k1"}
HEADROOM_KB = 12_288


# -- the scanner ---------------------------------------------------------------------------------

Table = dict[str, object]


def scan(server: Server, folder: Path, port: int, *options: str) -> dict[str, Table]:
    """The scanner's results by the name of the scan; each has run to its end."""
    if not SCANNER.exists():
        pytest.skip("sslyze is not installed: run `make deps`")
    out = folder / "scan.json"
    flags = [f"--{name}" for name in SCANS.split()]
    where = f"{server.address}:{port}"
    command = [str(SCANNER), "-m", "sslyze", "--mozilla_config=disable", "--quiet"]
    command += [*flags, f"--json_out={out}", f"--sni={server.domain}", *options, where]
    subprocess.run(command, check=True, timeout=120)
    (result,) = json.loads(out.read_text())["server_scan_results"]
    assert result["connectivity_status"] == "COMPLETED", str(result)[:2000]
    scans = {k: v for k, v in result["scan_result"].items() if v["status"] != "NOT_SCHEDULED"}
    failed = {k: v["error_trace"] for k, v in scans.items() if v["status"] != "COMPLETED"}
    assert not failed, str(failed)[:2000]
    return {name: found["result"] for name, found in scans.items()}


@pytest.mark.parametrize("way", ["starttls", "direct", "https"])
async def test_a_scanner_finds_nothing_weak(
    server: Server, clients: Clients, tmp_path: Path, way: str
) -> None:
    ports = {
        "starttls": server.ports.c2s,
        "direct": server.ports.direct,
        "https": server.ports.https,
    }
    options = ["--starttls=xmpp", f"--xmpp_to={server.domain}"] if way == "starttls" else []
    async with Bystanders(clients):
        found = await asyncio.to_thread(scan, server, tmp_path, ports[way], *options)
    for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert found[f"{old}_cipher_suites"]["accepted_cipher_suites"] == [], old
    suites = []
    for version in ("tls_1_2", "tls_1_3"):
        accepted = found[f"{version}_cipher_suites"]["accepted_cipher_suites"]
        assert isinstance(accepted, list)
        names = [a["cipher_suite"]["name"] for a in accepted]
        assert names, f"{version} is not spoken"
        suites += names
        assert all(a["cipher_suite"]["key_size"] >= 128 for a in accepted)
    assert [s for s in suites if not s.startswith(STRONG) or any(w in s for w in WEAK)] == []
    curves = found["elliptic_curves"]["supported_curves"]
    assert isinstance(curves, list)
    assert not {c["name"] for c in curves} & WEAK_CURVES
    assert found["tls_compression"]["supports_compression"] is False
    assert found["heartbleed"]["is_vulnerable_to_heartbleed"] is False
    assert found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"] is False
    assert str(found["robot"]["robot_result"]).startswith("NOT_VULNERABLE")
    # CVE-2021-32920: the client may not begin a new handshake inside a connection
    assert found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"] is False
    assert found["session_renegotiation"]["supports_secure_renegotiation"] is True
    assert found["tls_extended_master_secret"]["supports_ems_extension"] is True
    # data of a first flight can be replayed (RFC 8446 §8); XMPP has no profile for it
    assert found["tls_1_3_early_data"]["supports_early_data"] is False


@pytest.mark.parametrize("way", ["starttls", "direct"])
async def test_a_scanner_grades_it_as_mozilla_asks(server: Server, way: str) -> None:
    # the profile "intermediate"; only the tests' own authority is not known to the world
    if not SCANNER.exists():
        pytest.skip("sslyze is not installed: run `make deps`")
    port = server.ports.c2s if way == "starttls" else server.ports.direct
    options = ["--starttls=xmpp", f"--xmpp_to={server.domain}"] if way == "starttls" else []
    command = [str(SCANNER), "-m", "sslyze", "--mozilla_config=intermediate", *options]
    command += [f"--sni={server.domain}", f"{server.address}:{port}"]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, check=False
    )
    _, found, verdict = done.stdout.partition("COMPLIANCE AGAINST TLS CONFIGURATION")
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    issues = [line.strip() for line in verdict.splitlines() if line.strip().startswith("* ")]
    own = "* certificate_path_validation:"
    assert [issue for issue in issues if not issue.startswith(own)] == []
    assert issues, "the authority of the tests is not one that the scanner knows"


# -- STARTTLS --------------------------------------------------------------------------------------

INJECTED = {
    "a header": "{header}",
    "a login": "{header}<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{proof}</auth>",
    "a login alone": "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{proof}</auth>",
    "a stanza": "<message to='{to}'><body>injected</body></message>",
    "a blank": " ",
    "half a tag": "<message ",
}


@pytest.mark.parametrize("text", INJECTED.values(), ids=INJECTED)
async def test_what_is_sent_in_clear_behind_starttls_never_counts(
    clients: Clients, server: Server, juliet: Client, text: str
) -> None:
    # RFC 6120 §5.4.3.3, §13.3: as in CVE-2011-0411
    client = await opened(clients.raw(account=server.account()))
    assert client.account is not None
    proof = b64encode(plain(client.account.user, client.account.password)).decode()
    filled = text.format(header=header(client.host), proof=proof, to=juliet.jid)
    client.send_raw(f"<starttls xmlns='{ns.TLS}'/>" + filled)
    try:
        await client.expect("proceed")
        await client.handshake()
        await client.open_stream()
    except (StreamClosed, OSError):
        pass  # to refuse such a client outright is right
    else:
        assert client.features.has("mechanisms", ns.SASL), "the injected login counted"
        with pytest.raises(AssertionError):
            await client.bind()
    await juliet.expect_nothing("message", within_s=0.05)


# -- handshakes that go slowly, or nowhere -----------------------------------------------------------


def hello(name: str) -> bytes:
    """The first flight of a TLS client."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def raw_tls(server: Server, kind: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the TLS handshake is what comes next."""
    port = server.ports.direct if kind == "direct" else server.ports.c2s
    reader, writer = await asyncio.open_connection(server.address, port)
    if kind == "starttls":
        writer.write(header(server.domain).encode() + f"<starttls xmlns='{ns.TLS}'/>".encode())
        await asyncio.wait_for(reader.readuntil(b"<proceed"), 5)
        await asyncio.wait_for(reader.readuntil(b">"), 5)
    return reader, writer


@pytest.mark.settings(limits={"login_seconds": 2})
@pytest.mark.parametrize("kind", ["direct", "starttls"])
async def test_a_handshake_of_single_bytes_ends_with_the_time_to_log_in(
    clients: Clients, server: Server, kind: str
) -> None:
    async with Bystanders(clients):
        reader, writer = await raw_tls(server, kind)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for byte in hello(server.domain)[:-1]:
            if reader.at_eof() or writer.is_closing():
                break
            try:
                writer.write(bytes([byte]))
                await asyncio.wait_for(reader.read(1), 0.1)
            except TimeoutError:
                continue
            except OSError:
                break
            break
        assert loop.time() - began < 12
        writer.transport.abort()


HALVES = ("hello", "half a hello", "nothing", "garbage", "huge record", "alert")


@pytest.mark.parametrize("kind", ["direct", "starttls"])
@pytest.mark.parametrize("half", HALVES)
async def test_half_handshakes_leave_nothing_behind(
    clients: Clients, server: Server, kind: str, half: str
) -> None:
    # CVE-2021-32920's neighbours: each costs a signature and some memory, and all of it returns
    greeting = hello(server.domain)
    octets = {
        "hello": greeting,
        "half a hello": greeting[: len(greeting) // 2],
        "nothing": b"",
        "garbage": bytes(range(256)) * 4,
        "huge record": b"\x16\x03\x01\xff\xff" + b"\x01" * 65_535,
        "alert": b"\x15\x03\x01\x00\x02\x02\x28" * 100,
    }[half]

    async def one() -> None:
        try:
            reader, writer = await raw_tls(server, kind)
            writer.write(octets)
            if half in ("garbage", "huge record", "alert"):
                await asyncio.wait_for(reader.read(), 5)
            elif half == "hello":
                await asyncio.wait_for(reader.read(100), 5)
            writer.transport.abort()
        except ConnectionError:
            pass

    await asyncio.gather(*(one() for _ in range(50)))
    before = resident_kb(server)
    async with Bystanders(clients):
        for _ in range(6):
            await asyncio.gather(*(one() for _ in range(50)))
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_whole_handshakes_without_a_login_leave_nothing_behind(
    clients: Clients, server: Server
) -> None:
    async def one() -> None:
        client = clients.raw("direct")
        await client.connect()
        client.abort()

    await asyncio.gather(*(one() for _ in range(40)))
    before = resident_kb(server)
    async with Bystanders(clients):
        for _ in range(8):
            await asyncio.gather(*(one() for _ in range(40)))
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


async def test_a_new_handshake_inside_tls_1_2_is_refused(server: Server) -> None:
    # CVE-2021-32920, tried by OpenSSL itself: `R` asks for a renegotiation
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not installed")
    where = f"{server.address}:{server.ports.direct}"
    command = ["openssl", "s_client", "-connect", where, "-tls1_2", "-servername", server.domain]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readuntil(b"Verify return code")
    process.stdin.write(b"R\n")
    await process.stdin.drain()
    text, _ = await asyncio.wait_for(process.communicate(), 15)
    assert b"RENEGOTIATING" in text
    assert b"no renegotiation" in text or b"error" in text or b"unexpected" in text, text
