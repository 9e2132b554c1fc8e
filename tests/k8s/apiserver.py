# SPDX-License-Identifier: Apache-2.0
"""A real API server with its etcd on loopback, both built from their modules (tests/deps/go.sh)."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.k8s.helm import ROOT, Document

TOKEN = "of-the-test"
READY_S = 120

PATHS = {
    "StatefulSet": "statefulsets",
    "Service": "services",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Pod": "pods",
    "ServiceAccount": "serviceaccounts",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Certificate": "certificates",
    "ServiceMonitor": "servicemonitors",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Namespace": "namespaces",
}


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: Document

    @property
    def message(self) -> str:
        """Why it was refused."""
        return str(self.body.get("message", ""))


@dataclass(frozen=True)
class Server:
    """A running API server."""

    url: str
    ca: Path
    kubeconfig: Path

    def ask(self, method: str, path: str, body: Document | None = None) -> Answer:
        """One request as the administrator."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return Answer(answer.status, _json(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, _json(error.read()))

    def create(self, document: Document, namespace: str, *, is_dry: bool = True) -> Answer:
        """Creates, or asks whether it would be; unknown and doubled keys are errors."""
        group = document["apiVersion"]
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        scope = f"/namespaces/{namespace}"
        if document["kind"] in ("CustomResourceDefinition", "Namespace"):
            scope = ""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if is_dry else "")
        return self.ask("POST", f"{root}{scope}/{PATHS[document['kind']]}{query}", document)


def _json(raw: bytes) -> Document:
    try:
        found: Document = json.loads(raw)
    except ValueError:
        return {"message": raw.decode(errors="replace")}
    return found


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Starts both in `folder`, which then has their logs; stops them in the end."""
    programs = subprocess.run(
        [ROOT / "tests" / "deps" / "go.sh", "etcd", "kube-apiserver"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.split()  # fmt: skip
    client, peer, port = free_ports(3)
    _secrets(folder)
    etcd = [
        programs[0], f"--data-dir={folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
    ]  # fmt: skip
    api = [
        programs[1], f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}",
        f"--tls-cert-file={folder}/server.pem", f"--tls-private-key-file={folder}/server.key",
        f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
        f"--service-account-key-file={folder}/accounts.pub",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
        "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
    ]  # fmt: skip
    with _process(etcd, folder / "etcd.log"), _process(api, folder / "apiserver.log") as process:
        server = Server(f"https://127.0.0.1:{port}", folder / "server.pem", folder / "kubeconfig")
        server.kubeconfig.write_text(_kubeconfig(server))
        _wait(server, process, folder / "apiserver.log")
        yield server


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    output: IO[bytes]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with suppress(OSError):
            if server.ask("GET", "/readyz").status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the API server is not ready: {log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Free ones; bound at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def _secrets(folder: Path) -> None:
    """The server's certificate, which is its own authority, and the key of service accounts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for name_of_file, one in (("server.key", key), ("accounts.key", accounts)):
        (folder / name_of_file).write_bytes(
            one.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    (folder / "accounts.pub").write_bytes(
        accounts.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')


def _kubeconfig(server: Server) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": server.url, "certificate-authority": str(server.ca)},
                }
            ],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
    )
