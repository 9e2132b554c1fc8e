# SPDX-License-Identifier: Apache-2.0
"""A cluster as text for one screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from antiphon.cli.looking import Look
from antiphon.cluster.judge import Finding
from antiphon.cluster.status import ClusterStatus, Member, Peer

MOST_LINKS = 12
"""Rows of links; those to look at come first."""

Row = Sequence[str]


def status_text(name: str, look: Look, findings: Sequence[Finding]) -> str:
    """Everything that an operator must know, what is wrong at the end."""
    lines = [_head(name, look), "", *_nodes(look), *_links(look), *_etcd(look)]
    lines += [*_since(look), ""]
    if look.absent is not None:
        lines += [f"the node of this configuration is not in the cluster: {look.absent}", ""]
    for one in findings:
        lines.append(f"{one.level.upper() if one.level == 'error' else one.level}: {one.text}")
        if one.advice:
            lines.append(f"    {one.advice}")
    if not any(one.level != "note" for one in findings):
        lines.append("nothing is wrong")
    return "\n".join(lines)


def nodes_text(look: Look) -> str:
    """Members with their addresses."""
    rows = [
        (
            one.id,
            _state(one, look.view.nodes.get(one.id)),
            one.zone or "-",
            one.version or "-",
            str(one.incarnation),
            one.relay,
            one.control,
        )
        for one in look.view.members
    ]
    head = ("node", "state", "zone", "version", "incarnation", "relay", "control")
    lines = table(head, rows, right=(4,))
    lines += [f"{name} does not answer: {why}" for name, why in sorted(look.view.silent.items())]
    return "\n".join(lines)


def shards_text(look: Look) -> str:
    """Who owns how many shards, and what moves."""
    latest = look.view.latest
    if latest is None:
        return "nobody tells of shards"
    names = sorted({*latest.shards.by_node, *(one.id for one in look.view.members)})
    rows = []
    for name in names:
        owned = latest.shards.by_node.get(name, 0)
        moving = look.view.nodes.get(name)
        shards = moving.shards if moving is not None else None
        rows.append(
            (
                name,
                f"{owned:,}",
                f"{100 * owned / max(1, latest.shards.all):.1f} %",
                "?" if shards is None else f"{shards.served:,}",
                "?" if shards is None else f"{shards.coming:,}",
                "?" if shards is None else f"{shards.going:,}",
            )
        )
    head = ("node", "owned", "share", "served", "coming", "going")
    lines = table(head, rows, right=range(1, 6))
    free = latest.shards.all - sum(latest.shards.by_node.values())
    if free:
        lines.append(f"{free:,} of {latest.shards.all:,} shards have no owner")
    return "\n".join(lines)


def table(head: Row, rows: Sequence[Row], right: Iterable[int] = ()) -> list[str]:
    """Columns as wide as they need; those of `right` are set to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    to_right = set(right)
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(widths[n]) if n in to_right else cell.ljust(widths[n])
            for n, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _head(name: str, look: Look) -> str:
    latest = look.view.latest
    up = sum(one.state == "up" for one in look.view.members)
    parts = [f"cluster {name}", f"{up} of {len(look.view.members)} nodes up"]
    if latest is not None:
        owned = sum(latest.shards.by_node.values())
        share = "all" if owned == latest.shards.all else f"{owned:,}"
        parts += [f"map {latest.epoch}", f"planner {latest.leader_name or 'none'}"]
        parts.append(f"{share} of {latest.shards.all:,} shards owned")
        parts.append(f"{sum(one.sessions for one in look.view.nodes.values()):,} sessions")
    return ", ".join(parts)


def _nodes(look: Look) -> list[str]:
    rows = []
    names = sorted({*(one.id for one in look.view.members), *look.view.nodes})
    latest = look.view.latest
    for name in names:
        member, status = look.view.member(name), look.view.nodes.get(name)
        mark = f"{name} *" if latest is not None and latest.leader_name == name else name
        zone = member.zone if member is not None and member.zone is not None else "-"
        version = member.version if member is not None else "-"
        state = _state(member, status)
        if status is None:
            rows.append((mark, state, zone, version, *("?",) * 7))
            continue
        peers = len(look.view.members) - (member is not None)
        rows.append(
            (
                mark,
                state,
                zone,
                version,
                f"{status.shards.served:,}",
                f"{status.shards.coming:,}",
                f"{status.shards.going:,}",
                f"{status.sessions:,}",
                "frozen" if status.is_frozen else _seconds(status.lease_left_ms),
                _seconds(status.etcd.last_contact_ms),
                f"{status.links_up}/{peers}",
            )
        )
    head = ("node", "state", "zone", "version", "shards", "coming", "going", "sessions",
            "lease", "etcd", "links")  # fmt: skip
    return [*table(head, rows, right=range(4, 11)), ""] if rows else []


def _state(member: Member | None, status: ClusterStatus | None) -> str:
    if status is None:
        return "silent" if member is None else f"{member.state}, silent"
    if not status.is_in:
        return status.stage_word or "out"
    return member.state if member is not None else status.stage_word


def _links(look: Look) -> list[str]:
    links = [
        (name, peer)
        for name, one in sorted(look.view.nodes.items())
        for peer in one.peers
        if look.view.member(peer.node) is not None
    ]
    if not links:
        return []
    up = sum(peer.is_up for _name, peer in links)
    waiting = sum(peer.queued_bytes for _name, peer in links)
    sent = sum(peer.sent.stanzas for _name, peer in links)
    again = sum(peer.sent.again for _name, peer in links)
    lines = [
        f"links: {up} of {len(links)} up, {_bytes(waiting)} wait, {sent:,} stanzas sent, "
        f"{again:,} of them again"
    ]
    worst = sorted((one for one in links if _is_odd(one[1])), key=lambda one: one[1].is_up)
    rows = [
        (
            f"{name} > {peer.node}",
            peer.traffic_class,
            _way(peer),
            _bytes(peer.queued_bytes),
            f"{peer.pending:,}",
            f"{peer.sent.stanzas:,}",
            f"{peer.sent.again:,}",
            f"{peer.received.again:,}",
            f"{peer.resets:,}",
        )
        for name, peer in worst[:MOST_LINKS]
    ]
    if rows:
        head = ("link", "class", "state", "queued", "pending", "sent", "again", "known", "broke")
        lines += table(head, rows, right=range(3, 9))
    if len(worst) > MOST_LINKS:
        lines.append(f"and {len(worst) - MOST_LINKS} more; --json has all")
    return [*lines, ""]


def _way(peer: Peer) -> str:
    if not peer.is_up:
        return "down"
    return "up" if peer.via is None else f"via {peer.via}"


def _is_odd(peer: Peer) -> bool:
    is_good = peer.is_up and peer.via is None
    return not is_good or peer.queued_bytes > 0 or peer.resets > 0 or peer.sent.again > 0


def _etcd(look: Look) -> list[str]:
    rows = [
        (
            one.endpoint,
            "away" if one.fault is not None else "leader" if one.is_leader else "up",
            one.version or "-",
            _bytes(one.db_bytes) if one.fault is None else "-",
        )
        for one in look.view.etcd
    ]
    return [*table(("etcd", "state", "version", "size"), rows, right=(3,)), ""] if rows else []


def _since(look: Look) -> list[str]:
    nodes = look.view.nodes.values()
    if not nodes:
        return []
    handed = [one.handovers for one in nodes]
    unclean = sum(one.taken_unclean for one in handed)
    taken = unclean + sum(one.taken_clean for one in handed)
    return [
        f"since the nodes' starts: shards given {sum(one.released for one in handed):,}, taken "
        f"{taken:,} ({unclean:,} of dead nodes), dropped {sum(one.dropped for one in handed):,}; "
        f"frames refused {sum(one.refused_frames for one in nodes):,}; messages that came again "
        f"{sum(one.deduplicated for one in nodes):,}"
    ]


def _seconds(ms: int | None) -> str:
    return "-" if ms is None else f"{ms / 1000:.1f} s"


def _bytes(count: int) -> str:
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
