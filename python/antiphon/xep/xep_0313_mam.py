# SPDX-License-Identifier: Apache-2.0
"""XEP-0313 Message Archive Management 1.1.3: the whole history on every device.

What is archived is decided in the core, which also puts results on the asker's stream; queries are
read and ended here. One archive serves all versions of the protocol that clients speak: `mam:2`
with `#extended`, `mam:1`, `mam:0` and `mam:tmp`, which differ in how a query looks and in what ends
an answer.
"""

import msgspec

from antiphon.storage.model import ArchivePage, ArchiveQuery, PageForm, PageQuery
from antiphon.xep._declare import AfterReply, Context, E, Element, Iq, StanzaError, Xep
from antiphon.xep._mam_query import Asked, asked_by_children, asked_by_form, form, result_set
from antiphon.xmpp import ns
from antiphon.xmpp.stamp import utc_ms_text
from antiphon.xmpp.stanza import Session, Stanza

xep = Xep(
    313,
    version="1.1.3",
    title="Message Archive Management",
    owner_features=[
        ns.MAM_2,
        ns.MAM_EXTENDED,
        ns.MAM_GROUPCHAT_FIELD,
        ns.MAM_1,
        ns.MAM_0,
        ns.MAM_TMP,
    ],
    requires=[59, 359],
    core="mam",
    status="partial",
    note="archives of accounts; those of rooms and of pubsub come with these",
)

SEARCH = "fulltext"
"""The feature that brings the search field (XEP-0431)."""


@xep.iq("get", ns.MAM_2, "query", to="own")
@xep.iq("get", ns.MAM_1, "query", to="own")
@xep.iq("get", ns.MAM_0, "query", to="own")
def fields(ctx: Context, iq: Iq) -> Element:
    """The fields of a query (#query-form)."""
    dialect = iq.payload.ns
    return E("query", dialect, form(dialect, has_search=SEARCH in ctx.host.enabled))


@xep.iq("get", ns.MAM_2, "metadata", to="own")
async def metadata(ctx: Context, iq: Iq) -> Element:
    """The first and the last message of the archive; nothing if it is empty (#metadata)."""
    ends = await ctx.store.archive.ends(iq.to.bare)
    if ends is None:
        return E("metadata", ns.MAM_2)
    return E(
        "metadata",
        ns.MAM_2,
        E("start", ns.MAM_2, id=ends.first.id, timestamp=utc_ms_text(ends.first.at)),
        E("end", ns.MAM_2, id=ends.last.id, timestamp=utc_ms_text(ends.last.at)),
    )


@xep.iq("set", ns.MAM_2, "query", to="own")
@xep.iq("set", ns.MAM_1, "query", to="own")
async def query(ctx: Context, iq: Iq) -> Element:
    """Results, then the answer that ends them (#query, #results)."""
    asked = await _asked(ctx, iq)
    dialect = iq.payload.ns
    page = await _give(ctx, iq, asked, dialect)
    return _fin(dialect, asked, page)


@xep.iq("set", ns.MAM_0, "query", to="own")
async def query_0(ctx: Context, iq: Iq) -> AfterReply:
    """As of 0.3: the empty answer, then results, then a message that ends them."""
    asked = await _asked(ctx, iq)
    # What is wrong with the query must be known before it is answered.
    await ctx.store.archive.rows(
        iq.to.bare, asked.query, msgspec.structs.replace(asked.page, max=0)
    )

    async def results() -> None:
        try:
            page = await _give(ctx, iq, asked, ns.MAM_0)
        except StanzaError:
            # The client waits for an end: nothing came, and it is not all there is.
            page = ArchivePage(None, None, None, is_complete=False, is_stable=False)
        fin = _fin(ns.MAM_0, asked, page, query_id=asked.query_id)
        ctx.send(Stanza("message", frm=iq.to.bare, to=iq.frm, children=[fin]))

    return AfterReply(None, results)


@xep.iq("get", ns.MAM_TMP, "query", to="own")
async def query_tmp(ctx: Context, iq: Iq) -> Element:
    """As of 0.2: filters are plain children, and what is too long must be asked for by pages."""
    page_max = _page_max(ctx)
    asked = asked_by_children(iq.payload, page_max=page_max, has_search=SEARCH in ctx.host.enabled)
    if not asked.has_set and asked.query.text is None:
        # To count what a search finds would be to read it; its first page is an answer, too.
        found = await ctx.store.archive.count(iq.to.bare, asked.query, page_max)
        if found is None or found > page_max:
            raise StanzaError("policy-violation", "Too many results")
    page = await _give(ctx, iq, asked, ns.MAM_TMP)
    return E("query", ns.MAM_TMP, result_set(page.first, page.last, page.count))


async def _asked(ctx: Context, iq: Iq) -> Asked:
    has_search = SEARCH in ctx.host.enabled
    asked = asked_by_form(iq.payload, page_max=_page_max(ctx), has_search=has_search)
    return await _excluding(ctx, iq, asked)


async def _excluding(ctx: Context, iq: Iq, asked: Asked) -> Asked:
    """The query with bounds that exclude their message, in place of those that include it: the
    neighbour of that message is the bound."""
    owner = iq.to.bare
    query = asked.query
    if asked.from_id is not None:
        below = ArchiveQuery(before_id=asked.from_id)
        one = PageQuery(is_from_end=True, max=1)
        for row in (await ctx.store.archive.rows(owner, below, one)).rows:
            query = msgspec.structs.replace(query, after_id=row.id)
    if asked.to_id is not None:
        above = ArchiveQuery(after_id=asked.to_id)
        for row in (await ctx.store.archive.rows(owner, above, PageQuery(max=1))).rows:
            query = msgspec.structs.replace(query, before_id=row.id)
    return msgspec.structs.replace(asked, query=query)


def _page_max(ctx: Context) -> int:
    return ctx.host.config.archive.page_max


async def _give(ctx: Context, iq: Iq, asked: Asked, dialect: str) -> ArchivePage:
    """Sends the results to the asker (#results)."""
    look = PageForm(
        ns=dialect,
        query_id=asked.query_id,
        is_flipped=asked.is_flipped,
        has_count=asked.has_count,
    )
    return await ctx.store.archive.page(iq.to.bare, _session(iq), asked.query, asked.page, look)


def _session(iq: Iq) -> Session:
    if iq.session is None:
        raise StanzaError("not-allowed", "results go to a session of this server")
    return iq.session


def _fin(dialect: str, asked: Asked, page: ArchivePage, query_id: str | None = None) -> Element:
    """What ends an answer (#paging). A page of no messages that was only to be counted is complete
    if there are none."""
    is_complete = page.is_complete if asked.page.max else page.count == 0
    return E(
        "fin",
        dialect,
        result_set(page.first, page.last, page.count),
        queryid=query_id,
        complete="true" if is_complete else None,
        stable=None if page.is_stable else "false",
    )
