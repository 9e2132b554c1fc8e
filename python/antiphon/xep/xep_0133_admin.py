# SPDX-License-Identifier: Apache-2.0
"""XEP-0133 Service Administration 1.3.1: administrators manage accounts and sessions in a client.

Field names are the specification's. Every command runs one of `antiphon.commands` for the host it
is sent to, so who may do what is decided there.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from antiphon.commands import CommandContext, CommandError, Secret, accounts, server, sessions
from antiphon.xep._declare import Context, Element, Iq, StanzaError, Xep
from antiphon.xep.xep_0050_commands import (
    ADHOC_COMMANDS,
    KNOWN_NODES,
    AdHocCommand,
    Done,
    Note,
    Stage,
)
from antiphon.xmpp import ns
from antiphon.xmpp.forms import Field, Form, FormError, Option, Submission
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stamp import utc_text

xep = Xep(
    133,
    version="1.3.1",
    title="Service Administration",
    requires=[4, 50],
    status="partial",
    note="accounts, sessions, statistics and announcements; lists of domains, messages of the day "
    "and the list of administrators are configuration",
)

MOST_LISTED: Final = 5_000
"""Addresses in one answer, also where no limit is asked for."""

MOST_JIDS: Final = 100
"""Accounts that one command works on."""


class _Request(Struct, frozen=True):
    """One command being run: for whom, on which host, with which values."""

    ctx: CommandContext
    domain: str
    values: Submission

    def jids(self) -> list[Jid]:
        """`accountjids`, at most MOST_JIDS."""
        found = self.values.jids("accountjids")
        if len(found) > MOST_JIDS:
            raise FormError("accountjids", f"at most {MOST_JIDS} accounts at once")
        return found

    async def accounts(self) -> list[Jid]:
        """`accountjids`, all of which exist: nothing is done by halves for a misspelt one."""
        jids = self.jids()
        for jid in jids:
            await accounts.account_is_enabled(self.ctx, jid)
        return jids

    def most(self) -> int:
        """`max_items`; `none` and absent mean as many as one answer takes."""
        given = self.values.text("max_items")
        return MOST_LISTED if given in (None, "none") else int(given or 0)


class _Command(Struct, frozen=True):
    """A command of XEP-0133: its node behind `#`, its name, its fields, what it does."""

    node: str
    name: str
    fields: tuple[Field, ...]
    run: Callable[[_Request], Awaitable[Done]]


def _result(*fields: Field, extra: tuple[Element, ...] = ()) -> Done:
    return Done(payload=Form(kind="result", form_type=ns.ADMIN, fields=fields, extra=extra))


async def _add_user(request: _Request) -> Done:
    values = request.values
    password = values.text("password") or ""
    if values.text("password-verify") not in (None, password):
        raise FormError("password-verify", "the passwords differ")
    await accounts.create_account(request.ctx, values.jid("accountjid"), Secret(password))
    return Done()


async def _delete_user(request: _Request) -> Done:
    for jid in await request.accounts():
        await accounts.delete_account(request.ctx, jid)
    return Done()


async def _disable_user(request: _Request) -> Done:
    for jid in await request.accounts():
        await accounts.disable_account(request.ctx, jid)
    return Done()


async def _reenable_user(request: _Request) -> Done:
    for jid in await request.accounts():
        await accounts.enable_account(request.ctx, jid)
    return Done()


async def _end_user_session(request: _Request) -> Done:
    for jid in await request.accounts():
        await sessions.end_session(request.ctx, jid)
    return Done()


async def _change_user_password(request: _Request) -> Done:
    values = request.values
    password = Secret(values.text("password") or "")
    await accounts.change_password(request.ctx, values.jid("accountjid"), password)
    return Done()


async def _get_user_roster(request: _Request) -> Done:
    jids = request.jids()
    rosters = [await server.user_roster(request.ctx, jid) for jid in jids]
    return _result(_jids("accountjids", jids), extra=tuple(rosters))


async def _get_user_lastlogin(request: _Request) -> Done:
    jids = request.jids()
    seen = [await sessions.last_activity(request.ctx, jid) for jid in jids]
    # Who is online was last there just now; who never was has an empty value.
    now = utc_text(request.ctx.hosts[request.domain].now())
    times = tuple(now if one.is_online else one.at or "" for one in seen)
    return _result(
        _jids("accountjids", jids), Field(var="lastlogin", kind="text-multi", values=times)
    )


async def _user_stats(request: _Request) -> Done:
    jid = request.values.jid("accountjid")
    roster = await server.user_roster(request.ctx, jid)
    online = await sessions.user_sessions(request.ctx, jid)
    resources = tuple(Jid(one.jid).resource or "" for one in online)
    return _result(
        Field(var="rostersize", values=(str(len(roster.children)),)),
        Field(var="onlineresources", kind="text-multi", values=resources),
    )


async def _registered_num(request: _Request) -> Done:
    count = await accounts.count_accounts(request.ctx, request.domain)
    return _number("registeredusersnum", "The number of registered users", count)


async def _disabled_num(request: _Request) -> Done:
    found = await accounts.disabled_accounts(request.ctx, request.domain, None)
    return _number("disabledusersnum", "The number of disabled users", len(found))


async def _online_num(request: _Request) -> Done:
    found = await sessions.online_users(request.ctx, request.domain, None)
    return _number("onlineusersnum", "The number of online users", len(found))


async def _active_num(request: _Request) -> Done:
    found = await _by_activity(request, is_idle=False, most=None)
    return _number("activeusersnum", "The number of active users", len(found))


async def _idle_num(request: _Request) -> Done:
    found = await _by_activity(request, is_idle=True, most=None)
    return _number("idleusersnum", "The number of idle users", len(found))


async def _registered_list(request: _Request) -> Done:
    most = request.most()
    found = await accounts.registered_accounts(request.ctx, request.domain, most + 1)
    return _list("registereduserjids", found, most)


async def _disabled_list(request: _Request) -> Done:
    most = request.most()
    found = await accounts.disabled_accounts(request.ctx, request.domain, most + 1)
    return _list("disableduserjids", found, most)


async def _online_list(request: _Request) -> Done:
    most = request.most()
    found = await sessions.online_users(request.ctx, request.domain, most + 1)
    return _list("onlineuserjids", found, most)


async def _active_list(request: _Request) -> Done:
    most = request.most()
    return _list("activeuserjids", await _by_activity(request, is_idle=False, most=most + 1), most)


async def _idle_list(request: _Request) -> Done:
    most = request.most()
    # XEP-0133 §4.22 has this name in the list of idle users too.
    return _list("activeuserjids", await _by_activity(request, is_idle=True, most=most + 1), most)


async def _announce(request: _Request) -> Done:
    text = request.values.text("announcement") or ""
    count = await server.announce(request.ctx, request.domain, text)
    return Done(notes=(Note(f"Sent to {count} sessions."),))


async def _by_activity(request: _Request, *, is_idle: bool, most: int | None) -> list[Jid]:
    return await sessions.users_by_activity(request.ctx, request.domain, is_idle=is_idle, most=most)


def _jids(var: str, jids: Sequence[Jid]) -> Field:
    return Field(var=var, kind="jid-multi", values=tuple(str(jid) for jid in jids))


def _number(var: str, label: str, count: int) -> Done:
    return _result(Field(var=var, label=label, values=(str(count),)))


def _list(var: str, found: Sequence[Jid], most: int) -> Done:
    done = _result(_jids(var, found[:most]))
    if len(found) <= most:
        return done
    return Done(payload=done.payload, notes=(Note(f"Only the first {most}.", "warn"),))


_ACCOUNT: Final = Field(
    var="accountjid", kind="jid-single", label="The Jabber ID for this account", is_required=True
)
_ACCOUNTS: Final = Field(
    var="accountjids", kind="jid-multi", label="The Jabber ID(s)", is_required=True
)
_PASSWORD: Final = Field(
    var="password", kind="text-private", label="The password for this account", is_required=True
)
_MAX_ITEMS: Final = Field(
    var="max_items",
    kind="list-single",
    label="Maximum number of items to show",
    options=(
        *(Option(n, n) for n in ("25", "50", "75", "100", "150", "200")),
        Option("none", "None"),
    ),
)

COMMANDS: Final[tuple[_Command, ...]] = (
    _Command(
        "add-user",
        "Add User",
        (
            _ACCOUNT,
            _PASSWORD,
            Field(var="password-verify", kind="text-private", label="Retype password"),
        ),
        _add_user,
    ),
    _Command("delete-user", "Delete User", (_ACCOUNTS,), _delete_user),
    _Command("disable-user", "Disable User", (_ACCOUNTS,), _disable_user),
    _Command("reenable-user", "Re-Enable User", (_ACCOUNTS,), _reenable_user),
    _Command("end-user-session", "End User Session", (_ACCOUNTS,), _end_user_session),
    _Command(
        "change-user-password",
        "Change User Password",
        (_ACCOUNT, _PASSWORD),
        _change_user_password,
    ),
    _Command("get-user-roster", "Get User Roster", (_ACCOUNTS,), _get_user_roster),
    _Command("get-user-lastlogin", "Get User Last Login Time", (_ACCOUNTS,), _get_user_lastlogin),
    _Command("user-stats", "Get User Statistics", (_ACCOUNT,), _user_stats),
    _Command("get-registered-users-num", "Get Number of Registered Users", (), _registered_num),
    _Command("get-disabled-users-num", "Get Number of Disabled Users", (), _disabled_num),
    _Command("get-online-users-num", "Get Number of Online Users", (), _online_num),
    _Command("get-active-users-num", "Get Number of Active Users", (), _active_num),
    _Command("get-idle-users-num", "Get Number of Idle Users", (), _idle_num),
    _Command(
        "get-registered-users-list", "Get List of Registered Users", (_MAX_ITEMS,), _registered_list
    ),
    _Command(
        "get-disabled-users-list", "Get List of Disabled Users", (_MAX_ITEMS,), _disabled_list
    ),
    _Command("get-online-users-list", "Get List of Online Users", (_MAX_ITEMS,), _online_list),
    _Command("get-active-users", "Get List of Active Users", (_MAX_ITEMS,), _active_list),
    _Command("get-idle-users", "Get List of Idle Users", (_MAX_ITEMS,), _idle_list),
    _Command(
        "announce",
        "Send Announcement to Online Users",
        (Field(var="announcement", kind="text-multi", label="Announcement", is_required=True),),
        _announce,
    ),
)

NODES: Final = frozenset(f"{ns.ADMIN}#{command.node}" for command in COMMANDS)


@xep.hook(KNOWN_NODES)
def known_nodes(_ctx: Context, _none: None) -> frozenset[str]:
    """Every node, so that who may not run a command is told so (#errors)."""
    return NODES


@xep.hook(ADHOC_COMMANDS)
def offered(ctx: Context, requester: Jid) -> Sequence[AdHocCommand]:
    """All of them to administrators of the host, none to others."""
    return _OFFERED if ctx.is_admin(requester) else ()


def _adhoc(command: _Command) -> AdHocCommand:
    form = Form(
        kind="form",
        form_type=ns.ADMIN,
        title=command.name,
        instructions="Fill out this form.",
        fields=command.fields,
    )

    async def start(ctx: Context, iq: Iq) -> Stage | Done:
        domain = ctx.host.domain
        administration = CommandContext(store=ctx.store, hosts={domain: ctx}, requester=iq.frm)

        async def submit(values: Submission) -> Done:
            try:
                return await command.run(_Request(administration, domain, values))
            except CommandError as err:
                # The operator's one line serves the administrator too.
                raise StanzaError(err.condition, err.message) from err

        if not command.fields:
            return await submit(Submission({}))
        return Stage(form=form, submit=submit)

    return AdHocCommand(node=f"{ns.ADMIN}#{command.node}", name=command.name, start=start)


_OFFERED: Final = tuple(_adhoc(command) for command in COMMANDS)
