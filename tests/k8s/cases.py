# SPDX-License-Identifier: Apache-2.0
"""Sets of values that cover every pair of options that can stand together."""

from __future__ import annotations

import itertools
import random
from functools import cache

from tests.k8s.helm import Document

ISSUER = {"name": "authority", "kind": "ClusterIssuer"}
PEER = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}]

ONE_CASSANDRA: Document = {
    "cassandra": {"enabled": True, "contactPoints": ["10.0.0.1:9042", "cassandra.db.svc:9042"]}
}
CLUSTER: Document = {
    **ONE_CASSANDRA,
    "replicas": 3,
    "cluster": {"enabled": True, "etcd": {"endpoints": ["etcd-0:2379", "etcd-1:2379"]}},
}

MODES: dict[str, Document] = {
    "sqlite": {},
    "sqlite-claim": {"sqlite": {"existingClaim": "old-data"}},
    "sqlite-class": {"sqlite": {"storageClass": "fast", "size": "5Gi", "whenDeleted": "Delete"}},
    "cassandra": ONE_CASSANDRA,
    "cassandra-tryit": {"tryIt": {"cassandra": {"enabled": True}}},
    "cluster": CLUSTER,
    "cluster-tryit": {
        "replicas": 3,
        "cluster": {"enabled": True},
        "tryIt": {"etcd": {"enabled": True}, "cassandra": {"enabled": True}},
    },
    "cluster-tryit-lost": {
        "replicas": 2,
        "cluster": {"enabled": True},
        "tryIt": {
            "etcd": {"enabled": True, "size": "0"},
            "cassandra": {"enabled": True, "size": "0"},
        },
    },
}

OPTIONS: dict[str, dict[str, Document]] = {
    "tls": {
        "self-signed": {},  # in a cluster: secret
        "generated": {"tls": {"source": "generated"}},
        "secret": {"tls": {"source": "secret", "existingSecret": "chat-tls"}},
        "cert-manager": {"tls": {"source": "certManager", "certManager": {"issuerRef": ISSUER}}},
        "domains": {
            "config": {"domains": ["chat.example", "other.example"]},
            "tls": {
                "source": "secret",
                "existingSecret": "chat-tls",
                "domains": [{"domain": "other.example", "existingSecret": "other-tls"}],
            },
        },
    },
    "between": {  # only in a cluster
        "secret": {"cluster": {"tls": {"source": "secret", "existingSecret": "nodes"}}},
        "generated": {"cluster": {"tls": {"source": "generated"}}},
        "cert-manager": {
            "cluster": {
                "tls": {"source": "certManager", "nodes": 5, "certManager": {"issuerRef": ISSUER}}
            }
        },
        "csi": {"cluster": {"tls": {"source": "csi", "certManager": {"issuerRef": ISSUER}}}},
    },
    "etcd": {  # only in a cluster
        "open": {},
        "login": {"cluster": {"etcd": {"user": "a", "existingSecret": "etcd-login"}}},
        "tls": {
            "cluster": {
                "etcd": {
                    "user": "a",
                    "password": "s3 cret",
                    "prefix": "/one",
                    "tls": {"existingSecret": "etcd-tls", "clientCertificate": True},
                }
            }
        },
    },
    "cassandra": {  # only with one
        "open": {},
        "login": {
            "cassandra": {"user": "a", "existingSecret": "db", "existingSecretKey": "word"}
        },
        "tls": {
            "cassandra": {
                "user": "a",
                "password": "x",
                "localDatacenter": "dc1",
                "replication": ["dc1:3"],
                "tls": {"existingSecret": "db-tls", "clientCertificate": True},
                "migrate": False,
            }
        },
    },
    "monitoring": {
        "on": {},
        "off": {"metrics": {"enabled": False}},
        "operator": {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"a": "b"}}}},
    },
    "policy": {
        "on": {},
        "off": {"networkPolicy": {"enabled": False}},
        "narrow": {
            "networkPolicy": {
                "clientsFrom": PEER,
                "componentsFrom": PEER,
                "metricsFrom": PEER,
                "cassandraTo": PEER,
                "etcdTo": PEER,
                "extraIngress": [{"from": PEER}],
                "extraEgress": [{"to": PEER}],
            }
        },
    },
    "drain": {
        "default": {},
        "none": {"preStopSleepSeconds": 0, "config": {"node": {"drain_seconds": 0}}},
        "long": {
            "preStopSleepSeconds": 20,
            "terminationGracePeriodSeconds": 900,
            "config": {"node": {"drain_seconds": 300}},
        },
    },
    "service": {
        "inside": {},
        "balancer": {
            "service": {
                "type": "LoadBalancer",
                "loadBalancerClass": "example.org/lb",
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
                "annotations": {"a/b": "c"},
            }
        },
        "ports": {"service": {"type": "NodePort", "externalTrafficPolicy": "Cluster"}},
    },
    "family": {
        "v4": {},
        "v6": {"ipFamily": "IPv6"},
        "dual": {"ipFamily": "DualStack"},
    },
    "listeners": {
        "default": {},
        "all": {
            "listeners": {"http": {"enabled": True}, "component": {"enabled": True}},
            "components": [
                {"domain": "gateway.chat.example", "existingSecret": "gateway"},
                {"domain": "bot.chat.example", "existingSecret": "bot", "key": "word"},
            ],
        },
        "few": {"listeners": {"c2s": {"enabled": False}, "https": {"enabled": False}}},
        "moved": {"listeners": {"c2s": {"port": 15222}, "health": {"port": 8080}}},
    },
    "reloader": {"on": {}, "off": {"reloader": {"enabled": False}}},
    "placing": {
        "default": {},
        "required": {"antiAffinity": "required", "zoneSpread": "required"},
        "none": {"antiAffinity": "none", "zoneSpread": "none"},
        "own": {
            "affinity": {"nodeAffinity": {}},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "chat", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
        },
    },
    "update": {
        "rolling": {},
        "canary": {"updateStrategy": {"partition": 2}},
        "by-hand": {
            "updateStrategy": {"type": "OnDelete"},
            "podDisruptionBudget": {"enabled": False},
        },
        "share": {"podDisruptionBudget": {"maxUnavailable": "34%"}},
    },
    "names": {
        "default": {},
        "short": {"fullnameOverride": "im", "nameOverride": "talk"},
        "image": {
            "image": {
                "repository": "registry.example:5000/chat/antiphon",
                "digest": "sha256:" + "0123456789abcdef" * 4,
                "pullPolicy": "Always",
                "pullSecrets": ["registry"],
            },
            "serviceAccount": {"create": False, "name": "chat"},
        },
        "account": {
            "image": {"tag": "0.1.0-debug"},
            "serviceAccount": {"name": "own", "annotations": {"a": "b"}},
        },
    },
    "extra": {
        "none": {},
        "some": {
            "extraEnv": [{"name": "ANTIPHON_LOG_LEVEL", "value": "debug"}],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "podAnnotations": {"a": "b"},
            "podLabels": {"team": "chat"},
            "test": {"enabled": False},
        },
    },
    "config": {
        "default": {},
        "rich": {
            "config": {
                "admins": ["admin@chat.example"],
                "auth": {"mechanisms": ["SCRAM-SHA-256-PLUS", "PLAIN"], "allow_plaintext": False},
                "limits": {"stanza_bytes": 1048576, "sm_resume_seconds": 0},
                "log": {"level": "debug"},
                "modules": {
                    "disable": ["carbons"],
                    "contact": {"abuse": ["mailto:abuse@chat.example"]},
                },
                "domain": {"chat.example": {"admins": ["boss@chat.example"]}},
                "http": {"websocket_url": "wss://{domain}/ws"},
            }
        },
    },
}  # fmt: skip

ONLY_CLUSTER = ("between", "etcd")

Choice = dict[str, str]


def merge(base: Document, over: Document) -> Document:
    """`over` above `base`, as Helm puts values together."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return result


def settled(choice: Choice) -> Choice:
    """The choice with what cannot stand together left out or replaced."""
    result = dict(choice)
    if not choice["mode"].startswith("cluster"):
        for name in ONLY_CLUSTER:
            result.pop(name, None)
    elif choice.get("tls") == "self-signed":
        result["tls"] = "secret"
    if "tryit" in choice["mode"]:
        result.pop("etcd", None)
        result.pop("cassandra", None)
    if choice["mode"].startswith("sqlite"):
        result.pop("cassandra", None)
    return result


def values(choice: Choice) -> Document:
    """The chart's values for a choice."""
    result = MODES[choice["mode"]]
    for name, one in choice.items():
        if name != "mode":
            result = merge(result, OPTIONS[name][one])
    return result


def pairs(choice: Choice) -> set[tuple[tuple[str, str], ...]]:
    """Every two options of a choice."""
    return set(itertools.combinations(sorted(choice.items()), 2))


def possible() -> set[tuple[tuple[str, str], ...]]:
    """Every pair that can stand together."""
    found: set[tuple[tuple[str, str], ...]] = set()
    names = {"mode": list(MODES), **{name: list(options) for name, options in OPTIONS.items()}}
    first = {name: ones[0] for name, ones in names.items()}
    for (one, ones), (other, others) in itertools.combinations(names.items(), 2):
        for left, right, mode in itertools.product(ones, others, MODES):
            choice = {**first, "mode": mode, one: left, other: right}
            found |= pairs(settled(choice))
    return found


@cache
def covering(seed: int = 7) -> tuple[tuple[str, Document], ...]:
    """(name, values) of few cases that hold every possible pair; each mode alone comes first."""
    order = random.Random(seed)
    first = {name: next(iter(options)) for name, options in OPTIONS.items()}
    chosen = [settled({"mode": mode, **first}) for mode in MODES]
    missing = possible()
    for choice in chosen:
        missing -= pairs(choice)
    while missing:
        best: Choice = {}
        for _ in range(60):
            wanted = dict(order.choice(sorted(missing)))
            candidate = {"mode": order.choice(list(MODES))}
            candidate |= {name: order.choice(list(options)) for name, options in OPTIONS.items()}
            candidate = settled(candidate | wanted)
            if not best or len(pairs(candidate) & missing) > len(pairs(best) & missing):
                best = candidate
        missing -= pairs(best)
        chosen.append(best)
    return tuple((f"{n:02}-{choice['mode']}", values(choice)) for n, choice in enumerate(chosen))
