# SPDX-License-Identifier: Apache-2.0
"""Every template with every pair of options, judged by Kubernetes' schemas and by our own rules."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from antiphon.config.core import advertised, core_cluster
from antiphon.config.load import load
from antiphon.xep._registry import registry
from tests.k8s import cases, schemas
from tests.k8s.helm import CHART, NAMESPACE, RELEASE, Document, documents, only, run

CASES = dict(cases.covering())


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Document]]:
    """All cases; Helm is a process, so two at once."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(documents, CASES.values()), strict=True))


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    """(name, spec) of every pod that the manifests make."""
    for one in found:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif one["kind"] == "StatefulSet":
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


def containers(spec: Document) -> Iterator[Document]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_every_manifest_fits_the_schemas(rendered: dict[str, list[Document]], version: str) -> None:
    unique = {json.dumps(one): one for found in rendered.values() for one in found}
    wrong = {
        f"{one['kind']} {one['metadata']['name']}: {fault}"
        for one in unique.values()
        for fault in schemas.faults(one, version)
    }
    assert not wrong


def test_every_template_is_rendered_by_some_case(rendered: dict[str, list[Document]]) -> None:
    kinds = {
        (one["kind"], one["metadata"]["labels"]["app.kubernetes.io/component"])
        for found in rendered.values()
        for one in found
    }
    assert kinds >= {
        ("StatefulSet", "node"), ("StatefulSet", "etcd"), ("StatefulSet", "cassandra"),
        ("Service", "node"), ("ConfigMap", "node"), ("Secret", "node"), ("Certificate", "node"),
        ("NetworkPolicy", "node"), ("NetworkPolicy", "etcd"), ("NetworkPolicy", "cassandra"),
        ("PodDisruptionBudget", "node"), ("ServiceMonitor", "node"), ("ServiceAccount", "node"),
        ("Pod", "test"),
    }  # fmt: skip


def test_a_schema_finds_a_misspelt_key(rendered: dict[str, list[Document]]) -> None:
    for kind, key in (("StatefulSet", "replica"), ("ServiceMonitor", "endpoint")):
        found = next(one for each in rendered.values() for one in each if one["kind"] == kind)
        wrong = {**found, "spec": {**found["spec"], key: 1}}
        assert any(key in fault for fault in schemas.faults(wrong, schemas.VERSIONS[-1]))


@pytest.mark.parametrize("case", CASES)
def test_every_pod_keeps_the_restricted_standard(
    rendered: dict[str, list[Document]], case: str
) -> None:
    for name, spec in pods(rendered[case]):
        assert spec["automountServiceAccountToken"] is False, name
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(spec):
            inner = one["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert one["resources"]["requests"]["cpu"]
            assert one["resources"]["requests"]["memory"]
            assert one["resources"]["limits"]["memory"]


@pytest.mark.parametrize("case", CASES)
def test_what_is_named_exists(rendered: dict[str, list[Document]], case: str) -> None:
    found = rendered[case]
    for one in found:
        if one["kind"] != "StatefulSet":
            continue
        spec = one["spec"]
        pod = spec["template"]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
        volumes = [volume["name"] for volume in pod.get("volumes", [])] + claims
        assert len(volumes) == len(set(volumes)), "a volume is there twice"
        for container in containers(pod):
            mounts = container.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes)
            places = [mount["mountPath"] for mount in mounts]
            assert len(places) == len(set(places))
        ports = {port["name"] for port in pod["containers"][-1]["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            check = pod["containers"][-1][probe]
            assert (check.get("httpGet") or check["tcpSocket"])["port"] in ports
        services = {
            service["metadata"]["name"]: service["spec"]
            for service in found
            if service["kind"] == "Service"
            and service["spec"]["selector"].items() <= labels.items()
        }
        assert services[spec["serviceName"]]["clusterIP"] == "None"
        for service in services.values():
            assert service["ports"]
            assert {port["targetPort"] for port in service["ports"]} <= ports


@pytest.mark.parametrize("case", CASES)
def test_the_grace_period_holds_the_drain(rendered: dict[str, list[Document]], case: str) -> None:
    pod = only(rendered[case], "StatefulSet")["spec"]["template"]["spec"]
    hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
    text = only(rendered[case], "ConfigMap")["data"]["antiphon.toml"]
    read = tomllib.loads(text)
    drain = 2 * read["node"]["drain_seconds"] + read["cluster"].get("drain_seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > hook["sleep"]["seconds"] + drain


def environment(pod: Document) -> dict[str, str]:
    """What the node's container finds, its pod being the first."""
    variables: dict[str, str] = {}
    for one in pod["containers"][0]["env"]:
        if "value" in one:
            value = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], one["value"])
        else:
            path = one["valueFrom"]["fieldRef"]["fieldPath"]
            value = {
                "metadata.name": "xmpp-antiphon-0",
                "status.podIP": "10.1.2.3",
                "metadata.labels['topology.kubernetes.io/zone']": "",
            }[path]
            if "[$(POD_IP)]" in str(pod):
                value = value.replace("10.1.2.3", "fd00::7")
        variables[one["name"]] = value
    return variables


@pytest.mark.parametrize("case", CASES)
def test_a_node_accepts_its_configuration(
    rendered: dict[str, list[Document]], case: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every file that it names is mounted, too."""
    folder = tmp_path_factory.mktemp("etc")
    pod = only(rendered[case], "StatefulSet")["spec"]["template"]["spec"]
    text = only(rendered[case], "ConfigMap")["data"]["antiphon.toml"]
    variables = environment(pod)
    variables.pop("ANTIPHON_CONFIG")
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    for path in re.findall(r"/etc/antiphon/[\w./-]+", text + "\n".join(variables.values())):
        assert any(path.startswith(f"{mount}/") for mount in mounts), path
        here = folder / path.removeprefix("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text("secret\n")
    moved = {key: value.replace("/etc/", f"{folder}/etc/") for key, value in variables.items()}
    file = folder / "antiphon.toml"
    file.write_text(text.replace("/etc/", f"{folder}/etc/"))
    config = load(str(file), registry().configs(), moved).config
    assert config.node.name == "xmpp-antiphon-0"
    if config.is_clustered:
        assert core_cluster(config) is not None
        relay = advertised(config, 5270)
        assert relay in ("10.1.2.3:5270", "[fd00::7]:5270")


def test_values_arrive_in_the_configuration_as_they_were_written() -> None:
    words = 'a "quoted" <word> & a \\ in\nlines, ü'
    given = {
        "config": {
            "modules": {"vcard": {"server_description": words}},
            "limits": {"stanza_bytes": 10_000_000, "stanzas_per_second": 0},
            "domain": {"chat.example": {"modules": {"disable": ["carbons"]}}},
        }
    }
    text = only(documents(given), "ConfigMap")["data"]["antiphon.toml"]
    read = tomllib.loads(text)
    assert read["modules"]["vcard"]["server_description"] == words
    assert read["limits"] == {"stanza_bytes": 10_000_000, "stanzas_per_second": 0}
    assert read["domain"]["chat.example"]["modules"] == {"disable": ["carbons"]}


def digest(values: Document) -> str:
    metadata = only(documents(values), "StatefulSet")["spec"]["template"]["metadata"]
    return str(metadata["annotations"]["antiphon/restart-digest"])


def test_only_what_needs_a_restart_restarts_the_pods() -> None:
    quiet, loud = {"config": {"log": {"level": "info"}}}, {"config": {"log": {"level": "debug"}}}
    without = {"reloader": {"enabled": False}}
    assert digest(quiet) == digest(loud)
    assert digest({**quiet, **without}) != digest({**loud, **without})
    assert digest({}) != digest({"listeners": {"https": {"enabled": False}}})


def test_a_password_stands_in_no_configuration_and_no_pod() -> None:
    login = {"user": "a", "password": "s3cret-word"}
    given = cases.merge(cases.MODES["cluster"], cases.OPTIONS["between"]["secret"])
    given = cases.merge(given, cases.OPTIONS["tls"]["secret"])
    given = cases.merge(given, {"cassandra": login, "cluster": {"etcd": login}})
    for one in documents(given):
        assert ("s3cret-word" in json.dumps(one)) is False or one["kind"] == "Secret"


def test_the_key_of_the_generated_authority_is_in_no_pod() -> None:
    given = cases.merge(cases.MODES["cluster-tryit"], cases.OPTIONS["between"]["generated"])
    found = documents(cases.merge(given, cases.OPTIONS["tls"]["generated"]))
    pod = only(found, "StatefulSet")["spec"]["template"]["spec"]
    volume = next(one for one in pod["volumes"] if one["name"] == "cluster-tls")
    assert "ca.key" not in {item["key"] for item in volume["secret"]["items"]}


def test_nodes_alone_reach_the_ports_between_nodes() -> None:
    given = cases.merge(cases.MODES["cluster"], cases.OPTIONS["between"]["secret"])
    found = documents(cases.merge(given, cases.OPTIONS["tls"]["secret"]))
    for rule in only(found, "NetworkPolicy")["spec"]["ingress"]:
        if {port["port"] for port in rule["ports"]} & {"relay", "control"}:
            selector = rule["from"][0]["podSelector"]["matchLabels"]
            assert selector["app.kubernetes.io/component"] == "node"
            assert selector["app.kubernetes.io/instance"] == "xmpp"
    client = next(
        one
        for one in found
        if (one["kind"], one["metadata"]["name"]) == ("Service", "xmpp-antiphon")
    )
    assert {port["name"] for port in client["spec"]["ports"]} == {
        "xmpp-client", "xmpps-client", "https",
    }  # fmt: skip


def test_the_notes_say_what_comes_next(tmp_path: Path) -> None:
    given = cases.merge(cases.MODES["cluster-tryit"], cases.OPTIONS["between"]["generated"])
    given = cases.merge(given, cases.OPTIONS["tls"]["generated"])
    for values, words in (
        ({}, "antiphon account create admin@chat.example"),
        (given, "antiphon cluster status"),
        ({"service": {"type": "LoadBalancer"}}, "_xmpps-client._tcp.chat.example. SRV 0 0 5223"),
    ):
        assert words in notes(values, tmp_path)


def notes(values: Document, folder: Path) -> str:
    """NOTES.txt, which `helm template` leaves out: rendered as a manifest of a copied chart."""
    copied = folder / "antiphon"
    shutil.copytree(CHART, copied, dirs_exist_ok=True)
    text = (copied / "templates" / "NOTES.txt").read_text()
    (copied / "templates" / "notes.yaml").write_text(
        f'{{{{- define "notes" -}}}}\n{text}{{{{- end -}}}}\nnotes: {{{{ include "notes" . | toJson }}}}\n'
    )
    shown = run(
        ["template", RELEASE, str(copied), "--namespace", NAMESPACE, "--show-only",
         "templates/notes.yaml"],
        values,
    )  # fmt: skip
    return str(yaml.safe_load(shown)["notes"])
