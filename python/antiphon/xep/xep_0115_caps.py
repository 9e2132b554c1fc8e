# SPDX-License-Identifier: Apache-2.0
"""XEP-0115 Entity Capabilities 1.6.0: what clients can do, learnt once per software version.

The server announces its own capabilities in the stream features, and keeps a cache of those it has
verified. The core reads them in presence and asks about those it does not know.
"""

import secrets
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta, Struct

from antiphon.hooks.context import Slot
from antiphon.xep._declare import Context, E, Element, StanzaError, Xep
from antiphon.xep._points import CAPS_SEEN, STREAM_FEATURES
from antiphon.xep.xep_0030_disco import NODE_INFO, NodeQuery, host_info
from antiphon.xmpp import ns
from antiphon.xmpp.disco import HASHES, IllFormedError, Info, verification
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import Stanza


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of entity capabilities."""

    cache_entries: Annotated[
        int, Meta(ge=100, le=1_000_000, description="Verified capabilities that are kept.")
    ] = 10_000


xep = Xep(
    115,
    version="1.6.0",
    title="Entity Capabilities",
    features=[ns.CAPS],
    requires=[30],
    config=Options,
    core="caps",
)

NODE: Final = "urn:antiphon:server"
"""Names this software in `node` (#howitworks)."""

TIMEOUT_S: Final = 20.0
MOST_ASKED: Final = 256
MOST_FAILED: Final = 10_000
FAILED_FOR: Final = timedelta(hours=1)
LONGEST: Final = 256
"""Questions under way, answers remembered as bad and for how long, length of `ver` and `node`."""

Key = tuple[str, str]


class Cache:
    """Verified capabilities by (hash name, ver), the longest unused first; bounded.

    An answer that did not verify is remembered with its sender: the same `ver` is asked of another
    one (#ver-proc, step 3.9), of this one only after a while.
    """

    def __init__(self) -> None:
        self.asking: set[Key] = set()
        self._known: OrderedDict[Key, Info] = OrderedDict()
        self._failed: OrderedDict[tuple[Key, Jid], datetime] = OrderedDict()

    def find(self, key: Key) -> Info | None:
        """What these capabilities are, if they were verified."""
        info = self._known.get(key)
        if info is not None:
            self._known.move_to_end(key)
        return info

    def keep(self, key: Key, info: Info, most: int) -> None:
        """Keeps a verified answer."""
        self._known[key] = info
        while len(self._known) > most:
            self._known.popitem(last=False)

    def fail(self, key: Key, jid: Jid, now: datetime) -> None:
        """Remembers that this entity's answer was bad."""
        self._failed[(key, jid)] = now
        while len(self._failed) > MOST_FAILED:
            self._failed.popitem(last=False)

    def may_ask(self, key: Key, jid: Jid, now: datetime) -> bool:
        """Whether a question makes sense now: none under way, none just failed, room for it."""
        failed = self._failed.get((key, jid))
        if failed is not None and now - failed >= FAILED_FOR:
            del self._failed[(key, jid)]
            failed = None
        return failed is None and key not in self.asking and len(self.asking) < MOST_ASKED


CACHE: Final = Slot(Cache)


@xep.hook(STREAM_FEATURES)
def own_capabilities(ctx: Context, _none: None) -> Element:
    """`<c/>` of the host (#stream)."""
    return E("c", ns.CAPS, hash="sha-1", node=NODE, ver=_own_ver(ctx))


@xep.hook(NODE_INFO)
async def own_node(ctx: Context, query: NodeQuery) -> Info | None:
    """The host's discovery answer under the node that its capabilities name (#discover)."""
    return host_info(ctx) if query.node == f"{NODE}#{_own_ver(ctx)}" else None


def _own_ver(ctx: Context) -> str:
    return verification(host_info(ctx), "sha-1")


@xep.hook(CAPS_SEEN)
async def learn(ctx: Context, presence: Stanza) -> None:
    """Asks the sender of a presence about its capabilities, and tells the core if they verify."""
    caps = presence.element.find(ns.CAPS, "c")
    if caps is None or presence.frm is None:
        return
    hash_name, ver, node = caps.get("hash"), caps.get("ver"), caps.get("node")
    # Without a hash, or with one we cannot compute, nothing can be verified (#ver-proc, 1 and 2).
    if not ver or not node or hash_name not in HASHES or len(ver) + len(node) > LONGEST:
        return
    cache, key = CACHE.of(ctx), (hash_name, ver)
    if cache.find(key) is not None:
        ctx.link.caps_known(hash_name, ver)
        return
    if not cache.may_ask(key, presence.frm, ctx.now()):
        return
    cache.asking.add(key)
    try:
        info = await _verified(ctx, presence.frm, node, key)
    finally:
        cache.asking.discard(key)
    if info is None:
        cache.fail(key, presence.frm, ctx.now())
        return
    cache.keep(key, info, xep.options(ctx, Options).cache_entries)
    ctx.link.caps_known(hash_name, ver)


async def _verified(ctx: Context, jid: Jid, node: str, key: Key) -> Info | None:
    """The sender's discovery answer if it is well formed and its hash is what it said."""
    hash_name, ver = key
    request = Stanza(
        "iq",
        type="get",
        id=secrets.token_hex(8),
        frm=ctx.host.jid,
        to=jid,
        children=[E("query", ns.DISCO_INFO, node=f"{node}#{ver}")],
    )
    try:
        answer = (await ctx.request(request, TIMEOUT_S)).payload
        if answer is None or (answer.ns, answer.name) != (ns.DISCO_INFO, "query"):
            return None
        info = Info.of(answer)
        return info if verification(info, hash_name) == ver else None
    except (StanzaError, IllFormedError):
        return None
