# SPDX-License-Identifier: Apache-2.0
"""Values that cannot be meant are refused, with words that say what to do."""

from __future__ import annotations

import pytest

from tests.k8s import cases
from tests.k8s.helm import Document, RefusedError, text

CLUSTER = cases.merge(
    cases.merge(cases.MODES["cluster"], cases.OPTIONS["between"]["secret"]),
    cases.OPTIONS["tls"]["secret"],
)

REFUSED: list[tuple[str, Document, str]] = [
    ("a misspelt value", {"replica": 2}, "'replica' not allowed"),
    ("a misspelt key of the configuration", {"config": {"archve": {}}}, "'archve' not allowed"),
    ("a wrong type", {"config": {"limits": {"stanza_bytes": "big"}}}, "want integer"),
    ("no domain", {"config": {"domains": []}}, "/config/domains"),
    ("listeners in the configuration", {"config": {"listener": []}}, "'listener' not allowed"),
    ("a name of the node", {"config": {"node": {"name": "a"}}}, "'name' not allowed"),
    ("nodes without a cluster", {"replicas": 3}, "more than one node need cluster.enabled"),
    (
        "a cluster on SQLite",
        {"cluster": {"enabled": True}},
        "SQLite is one file of one node",
    ),
    (
        "a cluster without etcd",
        cases.merge(CLUSTER, {"cluster": {"etcd": {"endpoints": []}}}),
        "set cluster.etcd.endpoints",
    ),
    (
        "a cluster of self-signed certificates",
        cases.merge(CLUSTER, {"tls": {"source": "selfSigned"}}),
        "each node would show another certificate",
    ),
    (
        "nodes without certificates",
        cases.merge(CLUSTER, {"cluster": {"tls": {"existingSecret": ""}}}),
        "name it in cluster.tls.existingSecret",
    ),
    (
        "fewer certificates than nodes",
        cases.merge(CLUSTER, {"cluster": {"tls": {"source": "generated", "nodes": 2}}}),
        "every node needs a certificate",
    ),
    (
        "an unnamed issuer between nodes",
        cases.merge(CLUSTER, {"cluster": {"tls": {"source": "csi"}}}),
        "cluster.tls.certManager.issuerRef.name",
    ),
    (
        "two etcds",
        cases.merge(CLUSTER, {"tryIt": {"etcd": {"enabled": True}}}),
        "which etcd is meant",
    ),
    (
        "two Cassandras",
        cases.merge(CLUSTER, {"tryIt": {"cassandra": {"enabled": True}}}),
        "which Cassandra is meant",
    ),
    ("an etcd for nobody", {"tryIt": {"etcd": {"enabled": True}}}, "nobody would use it"),
    ("no contact points", {"cassandra": {"enabled": True}}, "needs cassandra.contactPoints"),
    (
        "a place without a port",
        {"cassandra": {"enabled": True, "contactPoints": ["cassandra"]}},
        "/cassandra/contactPoints/0",
    ),
    ("a user without a password", {"cassandra": {"user": "a"}}, "set cassandra.existingSecret"),
    ("a password without a user", {"cassandra": {"password": "a"}}, "set cassandra.user"),
    (
        "two passwords",
        {"cluster": {"etcd": {"user": "a", "password": "a", "existingSecret": "b"}}},
        "exclude each other",
    ),
    (
        "a client certificate from nowhere",
        {"cassandra": {"tls": {"clientCertificate": True}}},
        "needs cassandra.tls.existingSecret",
    ),
    ("a secret without a name", {"tls": {"source": "secret"}}, "name it in tls.existingSecret"),
    ("an unnamed issuer", {"tls": {"source": "certManager"}}, "tls.certManager.issuerRef.name"),
    ("an unknown source", {"tls": {"source": "acme"}}, "/tls/source"),
    (
        "a certificate for a foreign domain",
        {"tls": {"domains": [{"domain": "x.example", "existingSecret": "x"}]}},
        "x.example, which is not in config.domains",
    ),
    (
        "a grace period shorter than the drain",
        {"terminationGracePeriodSeconds": 30},
        "a stop takes up to 80 seconds",
    ),
    ("one port for two", {"listeners": {"c2s": {"port": 5223}}}, "port 5223 is taken twice"),
    ("a port that is none", {"listeners": {"c2s": {"port": 70000}}}, "/listeners/c2s/port"),
    (
        "monitoring of no metrics",
        {"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}},
        "needs metrics.enabled",
    ),
    (
        "components without a listener",
        {"components": [{"domain": "a.example", "existingSecret": "a"}]},
        "components need listeners.component.enabled",
    ),
    ("root", {"podSecurityContext": {"runAsUser": 0}}, "/podSecurityContext/runAsUser"),
    ("no replica", {"replicas": 0}, "/replicas"),
    ("a digest that is none", {"image": {"digest": "latest"}}, "/image/digest"),
]


@pytest.mark.parametrize("values, words", [pytest.param(v, w, id=n) for n, v, w in REFUSED])
def test_bad_values_are_refused_and_say_why(values: Document, words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        text(values)
    assert words in str(refused.value)


def test_the_good_values_beside_them_are_not() -> None:
    text(CLUSTER)
    text({})
