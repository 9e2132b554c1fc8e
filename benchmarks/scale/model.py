# SPDX-License-Identifier: Apache-2.0
"""The model: from costs of one session and one message to a cluster of any size. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scale.inputs import Inputs

HOPS = 3
"""Socket, sender's home, recipient's home, socket (docs/architecture.md)."""
FEWEST = 3
KIB, MIB, GIB = 1024.0, 1024.0**2, 1024.0**3
HOUR_S, DAY_S = 3600.0, 86_400.0


@dataclass(frozen=True)
class Sizing:
    """What a cluster of so many sessions needs; bytes, seconds and processors."""

    sessions: int
    nodes: int
    bound_by: str
    """What decides how many: memory, processors, network, or sessions of a node."""
    sessions_each: float
    memory_each_bytes: float
    processors_each: float
    """In use in the busy hour."""
    messages_per_s: float
    relay_each_bit_s: float
    """Out of one node; as much comes in."""
    links_each: int
    """Streams that a node keeps to others, of both classes."""
    link_processors_each: float
    """For pings on links that have nothing to carry."""
    etcd_keepalives_per_s: float
    etcd_writes_per_s: float
    """In a week in which every node is restarted once."""
    etcd_bytes: float
    rebuild_s: float
    """After a death: until the homes of its users answer."""
    rebuild_bytes_each: float
    """Announcements that a surviving node sends."""
    logins_s: float
    """Until all its clients are back, with the processors that are left over."""
    logins_per_s_each: float
    """Of a surviving node meanwhile."""
    store_processors: float
    store_bytes: float


def hops(nodes: int) -> float:
    """Hops of a message on average: each of three is one where two places differ."""
    return HOPS * (1.0 - 1.0 / nodes)


def session_bytes(inputs: Inputs, nodes: int) -> float:
    """Memory of a session over the whole cluster."""
    away = inputs["registry_kib"] * (1.0 if nodes > 1 else 0.0)
    return (inputs["session_kib"] + away) * KIB


def hop_us(inputs: Inputs, units_per_s: float) -> float:
    """CPU of a stanza on a link that carries so many a second, both ends.

    A frame costs the same whether it holds one unit or two hundred, and a link is flushed when it
    can be, so a quiet link costs a frame for each stanza and a busy one next to nothing.
    """
    return inputs["unit_us"] + inputs["frame_us"] / (1.0 + units_per_s * inputs["turn_s"])


def login_us(inputs: Inputs, nodes: int) -> float:
    """CPU of a login, its way to its home with it."""
    return inputs["login_us"] + hops(nodes) * inputs["login_hop_us"]


def relay_units_per_s(inputs: Inputs, sessions: int, nodes: int) -> float:
    """Stanzas that all nodes together send to each other, in the busy hour."""
    stanzas = inputs["messages_per_s"] * (1 + inputs["small_stanzas"]) * hops(nodes)
    # Presence goes from the home, to the contact's home, to his socket: the first hop is shared.
    deliveries = inputs["presence_per_h"] / HOUR_S * inputs["contacts_online"]
    return sessions * (stanzas + deliveries * hops(nodes) * (HOPS - 1) / HOPS)


def session_us_per_s(inputs: Inputs, sessions: int, nodes: int) -> float:
    """CPU that each of these sessions uses in each second of the busy hour, microseconds."""
    if nodes > 1:
        units = relay_units_per_s(inputs, sessions, nodes)
        hop = hop_us(inputs, units / (nodes * (nodes - 1)))
    else:
        hop = 0.0
    relay = hops(nodes) * hop
    messages = inputs["messages_per_s"]
    kept = messages * (inputs["message_us"] + relay)
    small = messages * inputs["small_stanzas"] * (inputs["stanza_us"] + relay)
    deliveries = inputs["presence_per_h"] / HOUR_S * inputs["contacts_online"]
    presence = deliveries * (inputs["presence_us"] + relay * (HOPS - 1) / HOPS)
    logins = inputs["logins_per_h"] / HOUR_S * login_us(inputs, nodes)
    return kept + small + presence + logins


def relay_bytes_per_s(inputs: Inputs, sessions: int, nodes: int) -> float:
    """What all nodes together send to each other, in the busy hour."""
    return relay_units_per_s(inputs, sessions, nodes) * inputs["hop_bytes"]


def link_processors(inputs: Inputs, nodes: int) -> float:
    """What a node spends on links that have nothing to carry: its own pings and its answers."""
    return (nodes - 1) * inputs["pair_us"] / 2 / 1e6


def _needs(inputs: Inputs, sessions: int, nodes: int) -> dict[str, float]:
    """How many nodes each resource asks for, were there this many."""
    memory = sessions * session_bytes(inputs, nodes)
    free = inputs["memory_gib"] * GIB * inputs["memory_share"] - inputs["process_mib"] * 1e6
    cpu = sessions * session_us_per_s(inputs, sessions, nodes) / 1e6
    processors = inputs["processors"] * inputs["cpu_share"] - link_processors(inputs, nodes)
    wire = inputs["network_gbit"] * 1e9 / 8 * 0.5
    return {
        "sessions of a node": sessions / inputs["most_sessions"],
        "memory": memory / free,
        "processors": cpu / processors if processors > 0 else math.inf,
        "network": relay_bytes_per_s(inputs, sessions, nodes) / wire,
    }


def size(inputs: Inputs, sessions: int) -> Sizing:
    """The smallest cluster that still holds them all with one node lost.

    Raises ValueError where no number of nodes does: pings alone use the processors up.
    """
    nodes = FEWEST
    while True:
        needs = _needs(inputs, sessions, nodes - 1)
        bound_by, needed = max(needs.items(), key=lambda item: item[1])
        if needed <= nodes - 1:
            break
        if math.isinf(needed) or nodes > 100_000:
            raise ValueError(f"{sessions:,} sessions: the links of {nodes:,} nodes cost too much")
        nodes = max(nodes + 1, math.ceil(needed) + 1) if needed < 2 * nodes else 2 * nodes
    if nodes > FEWEST:  # the leaps above may have gone too far
        while nodes > FEWEST and max(_needs(inputs, sessions, nodes - 2).values()) <= nodes - 2:
            nodes -= 1
    return _sized(inputs, sessions, nodes, "fewest" if nodes == FEWEST else bound_by)


def _sized(inputs: Inputs, sessions: int, nodes: int, bound_by: str) -> Sizing:
    each = sessions / nodes
    busy = each * session_us_per_s(inputs, sessions, nodes) / 1e6 + link_processors(inputs, nodes)
    left = nodes - 1
    # Half of what is idle, so that those who are in do not notice.
    spare = max(0.0, inputs["processors"] - busy * nodes / left) / 2
    lost_cpu_s = each * login_us(inputs, nodes) / 1e6
    announced = each * (left / nodes)  # sessions of its users, on the others
    rebuild_cpu_s = announced * inputs["announce_us"] / 1e6
    messages = sessions * inputs["messages_per_s"]
    daily = messages * DAY_S / 2.5
    logins_s = lost_cpu_s / (spare * left) if spare else math.inf
    return Sizing(
        sessions=sessions,
        nodes=nodes,
        bound_by=bound_by,
        sessions_each=each,
        memory_each_bytes=each * session_bytes(inputs, nodes) + inputs["process_mib"] * 1e6,
        processors_each=busy,
        messages_per_s=messages,
        relay_each_bit_s=relay_bytes_per_s(inputs, sessions, nodes) * 8 / nodes,
        links_each=2 * 2 * left,
        link_processors_each=link_processors(inputs, nodes),
        etcd_keepalives_per_s=nodes / inputs["keepalive_s"],
        # A restart: the record of the node goes through three states and ends, the map with them.
        etcd_writes_per_s=nodes * 8 / (7 * DAY_S),
        etcd_bytes=inputs["map_bytes"] + nodes * inputs["member_bytes"],
        rebuild_s=inputs["detect_s"] + rebuild_cpu_s / (spare * left if spare else 1e-9),
        rebuild_bytes_each=announced * inputs["announce_bytes"] / left,
        logins_s=logins_s,
        logins_per_s_each=each / left / logins_s if logins_s else 0.0,
        store_processors=messages * inputs["store_us"] * inputs["copies"] / 1e6,
        store_bytes=daily * inputs["retention_days"] * inputs["message_bytes"] * inputs["copies"],
    )
