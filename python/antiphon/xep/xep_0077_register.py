# SPDX-License-Identifier: Apache-2.0
"""XEP-0077 In-Band Registration 2.4: make an account from the client, change the password, leave.

Off by default: an open server attracts abuse. Requests before login come with the peer's address.
"""

import ipaddress
from collections import OrderedDict, deque
from datetime import datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta, Struct

from antiphon.hooks.context import Slot
from antiphon.xep._declare import AfterReply, Context, E, Element, Iq, StanzaError, Xep
from antiphon.xmpp import ns
from antiphon.xmpp.forms import Field, Form
from antiphon.xmpp.jid import Jid, JidError


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of in-band registration."""

    enabled: Annotated[
        bool, Meta(description="Let anybody make an account, and users change and remove theirs.")
    ] = False
    instructions: Annotated[str, Meta(description="What a client shows above the fields.")] = (
        "Choose a username and password for use with this service."
    )


xep = Xep(
    77,
    version="2.4",
    title="In-Band Registration",
    features=[ns.REGISTER],
    config=Options,
)

FORM: Final = Form(
    kind="form",
    form_type=ns.REGISTER,
    fields=(
        Field(var="username", label="Username", is_required=True),
        Field(var="password", kind="text-private", label="Password", is_required=True),
    ),
)

HOUR: Final = timedelta(hours=1)
MOST_ADDRESSES: Final = 10_000
"""Addresses whose registrations are counted; the longest quiet one is forgotten."""


class _Rate:
    """Registrations of the last hour by address, bounded."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[datetime]] = OrderedDict()

    def count(self, address: str, most: int, now: datetime) -> bool:
        """Counts one more, unless there were `most` in the last hour; 0 is no limit."""
        if most == 0:
            return True
        key = _network(address)
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        while times and now - times[0] >= HOUR:
            times.popleft()
        if len(times) >= most:
            return False
        times.append(now)
        if len(self._times) > MOST_ADDRESSES:
            self._times.popitem(last=False)
        return True


RATE: Final = Slot(_Rate)


def _network(address: str) -> str:
    """What one customer has: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


@xep.iq("get", ns.REGISTER, "query", to=("host", "own"))
def fields(ctx: Context, iq: Iq) -> Element:
    """The fields to fill out, or that the user is registered (#usecases-register)."""
    instructions = E("instructions", ns.REGISTER, xep.options(ctx, Options).instructions)
    if iq.is_before_login:
        return E(
            "query",
            ns.REGISTER,
            instructions,
            E("username", ns.REGISTER),
            E("password", ns.REGISTER),
        )
    return E(
        "query",
        ns.REGISTER,
        E("registered", ns.REGISTER),
        E("username", ns.REGISTER, _own(ctx, iq).local),
        E("password", ns.REGISTER),
    )


@xep.iq("set", ns.REGISTER, "query", to=("host", "own"))
async def register(ctx: Context, iq: Iq) -> AfterReply | None:
    """Makes an account (before login), changes the password or removes the account (after it)."""
    payload = iq.payload
    if payload.find(ns.REGISTER, "remove") is not None:
        return await _remove(ctx, iq)
    username, password = _submitted(payload)
    if iq.is_before_login:
        await _create(ctx, iq, username, password)
        return None
    own = _own(ctx, iq)
    if not username or not password:
        # An empty password never replaces the one there is (#usecases-changepw).
        raise StanzaError("bad-request", "username and password are both needed")
    if _account(ctx, username) != own:
        raise StanzaError("not-allowed", "one account is enough")
    await ctx.store.accounts.set_password(own, password)
    return None


async def _create(ctx: Context, iq: Iq, username: str, password: str) -> None:
    if not username or not password:
        raise StanzaError("not-acceptable", "username and password are both needed")
    account = _account(ctx, username)
    most = ctx.host.limits.registrations_per_hour
    if not RATE.of(ctx).count(iq.address or "", most, ctx.now()):
        raise StanzaError("resource-constraint", "too many registrations from this address")
    await ctx.store.accounts.create(account, password)


async def _remove(ctx: Context, iq: Iq) -> AfterReply:
    if iq.is_before_login:
        raise StanzaError("unexpected-request")
    if len(iq.payload.children) != 1:
        raise StanzaError("bad-request", "remove stands alone")
    own = _own(ctx, iq)
    if not await ctx.store.accounts.exists(own):
        raise StanzaError("registration-required")

    async def delete() -> None:
        await ctx.store.accounts.delete(own)

    # The removal ends the stream that the answer goes out on, so it comes behind the answer.
    return AfterReply(None, delete)


def _own(ctx: Context, iq: Iq) -> Jid:
    """The requester's account here; only users of the host itself have one."""
    own = iq.frm.bare
    if own.domain != ctx.host.domain or own.local is None or iq.session is None:
        raise StanzaError("forbidden")
    return own


def _submitted(payload: Element) -> tuple[str, str]:
    """Username and password, from the form if there is one (#precedence)."""
    form = payload.find(ns.DATA, "x")
    if form is not None:
        submission = FORM.submitted(form)
        return submission.text("username") or "", submission.text("password") or ""
    username = payload.find(ns.REGISTER, "username")
    password = payload.find(ns.REGISTER, "password")
    return (
        "" if username is None else username.text,
        "" if password is None else password.text,
    )


def _account(ctx: Context, username: str) -> Jid:
    try:
        account = Jid(f"{username}@{ctx.host.domain}")
    except JidError as err:
        raise StanzaError("not-acceptable", "this username is not allowed") from err
    if account.domain != ctx.host.domain or account.local is None or account.resource:
        # A name with an '@' or a '/' in it would otherwise be an account somewhere else.
        raise StanzaError("not-acceptable", "this username is not allowed")
    return account
