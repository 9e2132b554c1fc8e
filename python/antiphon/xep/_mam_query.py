# SPDX-License-Identifier: Apache-2.0
"""What a client asks of its archive, from the XML of every version of XEP-0313."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from antiphon.storage.model import ArchiveQuery, PageQuery
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.forms import Form
from antiphon.xmpp.jid import Jid, JidError
from antiphon.xmpp.rsm import PageRequest
from antiphon.xmpp.stamp import parse_stamp
from antiphon.xmpp.stanza import E, Element

DIALECTS: Final = (ns.MAM_2, ns.MAM_1, ns.MAM_0)
"""Namespaces whose queries carry a data form."""

FULLTEXT_FIELD: Final = "{urn:xmpp:fulltext:0}fulltext"
"""XEP-0431 #querying, the name that the form offers."""

SEARCH_FIELDS: Final = frozenset((FULLTEXT_FIELD, "full-text-search", "withtext"))
"""Names of the search field. COMPAT(clients of MongooseIM and of ejabberd: no end in sight)."""

MOST_IDS: Final = 1_000
"""Messages that one query may name; what a page may hold at most."""


class Asked(Struct, frozen=True, kw_only=True):
    """A query: which messages, which part of them, and how.

    `from_id` and `to_id` bound it like the query's own ids, but include their message. `has_set`:
    the client sent a `<set/>`, so it knows pages. `has_count`: the answer says how many messages
    there are. `is_flipped`: newest first (XEP-0313 #flipped).
    """

    query: ArchiveQuery
    from_id: str | None
    to_id: str | None
    page: PageQuery
    query_id: str | None
    has_set: bool
    has_count: bool
    is_flipped: bool


class _Filter(Struct, kw_only=True):
    """What the fields of a form have said so far."""

    query: ArchiveQuery
    from_id: str | None = None
    to_id: str | None = None
    is_simple: bool = False


def form(dialect: str, *, has_search: bool) -> Element:
    """The fields that a query may have (XEP-0313 #query-form); none is required."""

    def field(var: str, kind: str, *children: Element) -> Element:
        return E("field", ns.DATA, *children, var=var, type=kind)

    is_open = E("validate", ns.DATA_VALIDATE, E("open", ns.DATA_VALIDATE), datatype="xs:string")
    form_type = E("value", ns.DATA, dialect)
    return E(
        "x",
        ns.DATA,
        field("FORM_TYPE", "hidden", form_type),
        field("with", "jid-single"),
        field("start", "text-single"),
        field("end", "text-single"),
        field("before-id", "text-single"),
        field("after-id", "text-single"),
        # Open to any id: the list of all is too long to be given out.
        field("ids", "list-multi", is_open),
        field("include-groupchat", "boolean"),
        field(FULLTEXT_FIELD, "text-single") if has_search else None,
        type="form",
    )


def asked_by_form(payload: Element, *, page_max: int, has_search: bool) -> Asked:
    """A query whose filter is a data form (XEP-0313 0.3 and later).

    Raises `feature-not-implemented` for a field that is not known, `bad-request` with a text for a
    value that cannot be.
    """
    _refuse_node(payload)
    found = _Filter(query=ArchiveQuery())
    element = payload.find(ns.DATA, "x")
    if element is not None:
        sent = Form.parse(element)
        if sent.kind != "submit":
            raise StanzaError("bad-request", "the form is not a submission")
        if sent.form_type not in (None, payload.ns):
            raise StanzaError("bad-request", f"FORM_TYPE is not {payload.ns}")
        for one in sent.fields:
            _read(found, one.var or "", one.values, has_search=has_search)
    return _asked(payload, found, page_max)


def asked_by_children(payload: Element, *, page_max: int, has_search: bool) -> Asked:
    """A query of XEP-0313 0.2, whose filters are plain children, each at most once."""
    _refuse_node(payload)
    found = _Filter(query=ArchiveQuery())
    seen: set[str] = set()
    for child in payload.children:
        if child.ns != ns.MAM_TMP:
            continue
        if child.name in seen:
            raise StanzaError("bad-request", f"{child.name[:64]} stands there twice")
        seen.add(child.name)
        if child.name not in ("with", "start", "end", "withtext"):
            raise StanzaError("feature-not-implemented", f"{child.name[:64]} is not known")
        _read(found, child.name, (child.text,), has_search=has_search)
    return _asked(payload, found, page_max)


def page_of(request: PageRequest | None, page_max: int) -> PageQuery:
    """The part of a result that a `<set/>` asks for, never more than `page_max` of it."""
    request = request or PageRequest()
    if request.index is not None:
        # XEP-0059 #jump: who does not keep an index says so.
        raise StanzaError("feature-not-implemented", "pages are not found by index")
    return PageQuery(
        after=request.after or None,
        before=request.before or None,
        is_from_end=request.before is not None,
        max=page_max if request.max is None else min(request.max, page_max),
    )


def result_set(first: str | None, last: str | None, count: int | None) -> Element:
    """The `<set/>` of an answer; ids are absent where the page is empty."""
    return E(
        "set",
        ns.RSM,
        None if first is None else E("first", ns.RSM, first),
        None if last is None else E("last", ns.RSM, last),
        None if count is None else E("count", ns.RSM, str(count)),
    )


def not_before(moment: datetime) -> datetime:
    """The first millisecond that is not before this moment: archives know no finer time."""
    finer = moment.microsecond % 1000
    if not finer:
        return moment
    try:
        return moment + timedelta(microseconds=1000 - finer)
    except OverflowError:
        return moment


def _asked(payload: Element, found: _Filter, page_max: int) -> Asked:
    request = PageRequest.of(payload)
    page = page_of(request, page_max)
    # Counting is the dear part of a page, so only the first one says how many there are.
    is_first = page.after is None and page.before is None
    wants_count = page.max == 0 or (is_first and found.query.text is None)
    query = found.query
    if (query.after_id and found.from_id) or (query.before_id and found.to_id):
        raise StanzaError("bad-request", "two bounds by id where one is enough")
    return Asked(
        query=query,
        from_id=found.from_id,
        to_id=found.to_id,
        page=page,
        query_id=payload.get("queryid"),
        has_set=request is not None,
        has_count=wants_count and not found.is_simple,
        is_flipped=payload.find(payload.ns, "flip-page") is not None,
    )


def _refuse_node(payload: Element) -> None:
    if payload.get("node") is not None:
        # Of pubsub archives (XEP-0442); those of accounts have no nodes.
        raise StanzaError("item-not-found", "this archive has no nodes")


def _read(found: _Filter, var: str, values: tuple[str, ...], *, has_search: bool) -> None:
    """Takes one field into the filter; one without a value says nothing (XEP-0004 §3.2)."""
    is_search = var in SEARCH_FIELDS
    if not (var in _FIELDS or var in _EXTRA or (is_search and has_search)):
        raise StanzaError("feature-not-implemented", f"the field {var[:64]} is not known")
    values = tuple(value for value in values if value)
    if not values:
        return
    if len(values) > 1 and var != "ids":
        raise StanzaError("bad-request", f"{var}: only one value is allowed")
    if is_search:
        _search(found, var, values[0])
    elif var == "simple":
        found.is_simple = _flag(var, values[0])
    elif var == "from-id":
        found.from_id = values[0]
    elif var == "to-id":
        found.to_id = values[0]
    else:
        change = _FIELDS[var](var, values)
        found.query = msgspec.structs.replace(found.query, **change)


def _search(found: _Filter, var: str, text: str) -> None:
    if not text.strip():
        return
    if found.query.text not in (None, text):
        raise StanzaError("bad-request", f"{var}: there is another search already")
    found.query = msgspec.structs.replace(found.query, text=text)


def _with(var: str, values: tuple[str, ...]) -> Mapping[str, object]:
    try:
        return {"with_jid": Jid(values[0])}
    except JidError as err:
        # Not `jid-malformed`: that is about the addresses of the stanza itself.
        raise StanzaError("bad-request", f"{var}: not an address: {err}") from err


def _moment(var: str, values: tuple[str, ...]) -> Mapping[str, object]:
    try:
        moment = parse_stamp(values[0])
    except ValueError as err:
        raise StanzaError("bad-request", f"{var}: {err}") from err
    return {var: not_before(moment) if var == "start" else moment}


def _one_id(var: str, values: tuple[str, ...]) -> Mapping[str, object]:
    return {var.replace("-", "_"): values[0]}


def _ids(var: str, values: tuple[str, ...]) -> Mapping[str, object]:
    if len(values) > MOST_IDS:
        raise StanzaError("bad-request", f"{var}: more than {MOST_IDS}")
    return {"ids": tuple(dict.fromkeys(values))}


def _groupchat(var: str, values: tuple[str, ...]) -> Mapping[str, object]:
    return {"has_groupchat": _flag(var, values[0])}


def _flag(var: str, value: str) -> bool:
    if value not in ("0", "1", "true", "false"):
        raise StanzaError("bad-request", f"{var}: not a boolean")
    return value in ("1", "true")


_Reader = Callable[[str, tuple[str, ...]], Mapping[str, object]]

_FIELDS: Final[dict[str, _Reader]] = {
    "with": _with,
    "start": _moment,
    "end": _moment,
    "before-id": _one_id,
    "after-id": _one_id,
    "ids": _ids,
    "include-groupchat": _groupchat,
}
"""The fields of XEP-0313 #filter."""

_EXTRA: Final = frozenset(("from-id", "to-id", "simple"))
"""Fields of MongooseIM (its document "MAM extensions"): the ids include their message, and a simple
query is not counted."""
