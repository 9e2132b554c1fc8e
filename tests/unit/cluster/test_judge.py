# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a cluster, said in words."""

import json

import msgspec
import pytest

from antiphon.cluster.judge import View, findings
from antiphon.cluster.status import ClusterStatus, EtcdMember, Member, read
from tests.unit.cluster.nodes import status

MEMBERS = {"a": "h:1", "b": "h:2", "c": "h:3"}
UP = EtcdMember(endpoint="e1:1", version="3.6.1", has_leader=True)
DOWN = EtcdMember(endpoint="e2:1", fault="connection refused")
LINK = {"node": "b", "incarnation": 2, "class": "bulk", "is_up": True, "queued_bytes": 0}


def node(name: str, **more: object) -> ClusterStatus:
    found = read(json.dumps(status(name, MEMBERS, **more)))
    assert found is not None
    return found


def shards(**more: object) -> dict[str, object]:
    owned = {name: 1365 + (name == "a") for name in MEMBERS}
    return {"shards": {"all": 4096, "served": 1365, "by_node": owned, **more}}


def view(*nodes: ClusterStatus, **more: object) -> View:
    given = {name: node(name, **shards()) for name in MEMBERS} | {one.node: one for one in nodes}
    base = View(nodes=given, members=node("a").members, etcd=[UP, UP, UP])
    return msgspec.structs.replace(base, **more)


def changed(**more: object) -> list[Member]:
    members = node("a").members
    return [msgspec.structs.replace(members[0], **more), *members[1:]]


def test_a_sound_cluster_has_nothing_to_say() -> None:
    assert findings(view()) == []


@pytest.mark.parametrize(
    ("look", "level", "text"),
    [
        (view(etcd=[UP, DOWN, DOWN]), "error", "etcd is away (e2:1: connection refused; e2:1: connection refused)"),
        (view(etcd=[UP, UP, DOWN]), "warning", "1 of 3 members of etcd do not answer (e2:1: connection refused)"),
        (view(etcd=[EtcdMember(endpoint="e", version="3.6")]), "error", "etcd has no leader"),
        (view(etcd_fault="permission denied"), "error", "etcd cannot be read: permission denied"),
        (view(etcd=[msgspec.structs.replace(UP, version="3.4.9")]), "warning", "etcd 3.4.9 at e1:1 is older than 3.5"),
        (view(node("b", **shards(), is_frozen=True)), "warning", "b went on without etcd, by the word of the others"),
        (view(silent={"c": "connection refused"}), "error", "c does not answer control calls: connection refused"),
        (view(node("b", **shards(), incarnation=0, stage="joining: etcd does not answer")), "warning", "b is not in yet: etcd does not answer"),
        (view(node("b", **shards(), stage="out: the lease ended")), "error", "b is out of the cluster: the lease ended"),
        (view(node("b", epoch=9, **shards(by_node={"a": 4000}))), "error", "96 shards have no owner: their users wait"),
        (view(node("b", epoch=9, leader=None, **shards())), "error", "nobody plans, so no shard can move"),
        (view(node("b", **shards(coming=12))), "warning", "12 shards are coming to b: their users wait"),
        (view(node("b", epoch=6, **shards())), "warning", "b goes by map 6, the newest is 7"),
        (view(node("b", lease_left_ms=2_000, **shards())), "error", "the lease of b ends in 2.0 s"),
        (view(node("b", etcd={"last_contact_ms": 7_000}, **shards())), "warning", "b heard nothing of etcd for 7 s"),
        (view(node("a", peers=[{**LINK, "is_up": False}], **shards())), "error", "the link from a to b (bulk) is down"),
        (view(node("a", peers=[{**LINK, "via": "c"}], **shards())), "warning", "the link from a to b (bulk) goes over c"),
        (view(node("a", peers=[{**LINK, "queued_bytes": 20 << 20}], **shards())), "warning", "20 MiB wait from a to b (bulk)"),
        (view(node("a", refused_frames=3, **shards())), "note", "frames that were refused since the start: a 3"),
        (view(members=changed(state="draining")), "note", "a drains, 1365 shards left"),
        (view(members=changed()[:1]), "warning", "1 node is up"),
        (view(members=changed(version="0.2.0")), "note", "versions 0.1.0 and 0.2.0 run beside each other"),
        (view(members=changed(zone="z")), "warning", "b and c stand in no zone, others do"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(look: View, level: str, text: str) -> None:
    found = [(one.level, one.text) for one in findings(look)]
    assert found[0] == (level, text)
    assert all(one.advice for one in findings(look))


def test_a_link_to_a_node_that_has_left_is_no_fault() -> None:
    gone = {**LINK, "node": "x", "is_up": False}
    assert findings(view(node("a", peers=[gone], **shards()))) == []


def test_the_worst_comes_first() -> None:
    look = view(
        node("a", refused_frames=1, **shards(coming=1)), etcd=[DOWN], members=changed(version="2")
    )
    levels = [one.level for one in findings(look)]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    assert set(levels) == {"error", "warning", "note"}


@pytest.mark.parametrize("text", ["{", '{"node": 1}', "[]", '{"node": "a", "epoch": "x"}'])
def test_a_status_that_does_not_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="a status that does not read"):
        read(text)


def test_a_lone_node_has_no_status() -> None:
    assert read("null") is None


def test_fields_of_a_later_version_are_left_alone() -> None:
    found = read('{"node": "a", "colour": "red", "shards": {"hue": 1}}')
    assert found == ClusterStatus(node="a")


def test_the_planner_is_found_by_name_and_by_incarnation() -> None:
    assert [node("a", leader=one).leader_name for one in ("b", 2, None, 99)] == [
        "b",
        "b",
        None,
        None,
    ]
