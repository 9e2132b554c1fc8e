# SPDX-License-Identifier: Apache-2.0
"""A real API server accepts everything that the chart makes, and Helm installs it there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.k8s import cases, schemas
from tests.k8s.apiserver import Server, running
from tests.k8s.helm import CHART, NAMESPACE, Document, documents, only, program

CASES = dict(cases.covering())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("kubernetes")) as found:
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                # Pods against the standard would be refused, not only warned of.
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
        assert found.create(namespace, "", is_dry=False).status == 201
        for crd in schemas.crds():
            answer = found.create(crd, "", is_dry=False)
            assert answer.status == 201, answer.message
        yield found


def accept(server: Server, document: Document) -> None:
    """Asks for a while: a new custom resource is served moments after its definition."""
    answer = server.create(document, NAMESPACE)
    for _ in range(50):
        if answer.status != 404:
            break
        time.sleep(0.1)
        answer = server.create(document, NAMESPACE)
    assert answer.status == 201, f"{document['kind']}: {answer.message}"


def as_pod(document: Document) -> Document:
    """The pod of a StatefulSet alone: admission judges pods, not their templates."""
    template = document["spec"]["template"]
    spec = json.loads(json.dumps(template["spec"]))
    for claim in document["spec"].get("volumeClaimTemplates", []):
        name = claim["metadata"]["name"]
        spec.setdefault("volumes", []).append(
            {"name": name, "persistentVolumeClaim": {"claimName": name}}
        )
    metadata = {**template["metadata"], "name": f"{document['metadata']['name']}-0"}
    spec.pop("priorityClassName", None)  # it would have to exist
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("case", CASES)
def test_the_server_accepts_every_manifest(server: Server, case: str) -> None:
    for document in documents(CASES[case]):
        accept(server, document)
        if document["kind"] == "StatefulSet":
            accept(server, as_pod(document))


def test_the_server_is_strict(server: Server) -> None:
    found = only(documents({}), "StatefulSet")
    spec = found["spec"]
    misspelt = {**found, "spec": {**spec, "replica": 1}}
    answer = server.create(misspelt, NAMESPACE)
    assert (answer.status, "replica" in answer.message) == (400, True)
    selector = {"matchLabels": {"app.kubernetes.io/name": "another"}}
    assert server.create({**found, "spec": {**spec, "selector": selector}}, NAMESPACE).status == 422
    pod = as_pod(found)
    pod["spec"]["securityContext"].pop("runAsNonRoot")
    assert server.create(pod, NAMESPACE).status == 403


def helm(server: Server, *arguments: str, values: Document | None = None) -> str:
    done = subprocess.run(
        [program(), *arguments, "--namespace", NAMESPACE],
        input=json.dumps(values or {}),
        env={**os.environ, "KUBECONFIG": str(server.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def secret(server: Server, name: str) -> Document:
    data: Document = server.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}").body[
        "data"
    ]
    return data


def test_helm_installs_upgrades_and_removes_a_cluster(server: Server) -> None:
    """What Helm generates is kept by an upgrade, and new nodes get a certificate beside it."""
    values = cases.merge(cases.MODES["cluster-tryit"], cases.OPTIONS["tls"]["generated"])
    values = cases.merge(values, cases.OPTIONS["between"]["generated"])
    shown = helm(server, "install", "im", str(CHART), "--values", "-", values=values)
    assert "antiphon cluster status" in shown
    before, outside = secret(server, "im-antiphon-cluster"), secret(server, "im-antiphon-tls")
    more = cases.merge(values, {"replicas": 4, "image": {"tag": "0.1.1"}})
    helm(server, "upgrade", "im", str(CHART), "--values", "-", values=more)
    after = secret(server, "im-antiphon-cluster")
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"im-antiphon-3.crt", "im-antiphon-3.key"}
    assert secret(server, "im-antiphon-tls") == outside
    helm(server, "uninstall", "im")
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"
    assert server.ask("GET", path).body["items"] == []


def test_one_node_becomes_another_release_of_itself(server: Server) -> None:
    """Nothing that an upgrade changes is immutable: size of the image, ports, policy, reloader."""
    helm(server, "install", "one", str(CHART), "--values", "-", values={})
    changed = {
        "image": {"tag": "0.2.0"},
        "listeners": {"c2s": {"port": 15222}, "component": {"enabled": True}},
        "networkPolicy": {"enabled": False},
        "reloader": {"enabled": False},
        "metrics": {"serviceMonitor": {"enabled": True}},
    }
    helm(server, "upgrade", "one", str(CHART), "--values", "-", values=changed)
    helm(server, "rollback", "one")
    helm(server, "uninstall", "one")
