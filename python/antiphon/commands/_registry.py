# SPDX-License-Identifier: Apache-2.0
"""What a command is, and the list of all."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Literal,
    NewType,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import Struct

from antiphon.storage.api import Store
from antiphon.storage.context import Context
from antiphon.xmpp.errors import Condition, StanzaError
from antiphon.xmpp.jid import Jid, JidError

Secret = NewType("Secret", str)
"""A password: asked without echo, never logged."""

Kind = Literal["jid", "jids", "text", "secret", "number", "flag"]
_KINDS: dict[object, Kind] = {
    Jid: "jid",
    list[Jid]: "jids",
    str: "text",
    Secret: "secret",
    int: "number",
    bool: "flag",
}


class CommandError(StanzaError):
    """A command that was refused. `text` is one line that tells the operator what is wrong."""

    def __init__(self, condition: Condition, text: str) -> None:
        super().__init__(condition, text)
        self.message = text


class CommandContext(Struct, frozen=True, kw_only=True):
    """For whom a command runs. `requester` None is the operator at the admin socket.

    `hosts` are the served domains; `shut_down` begins a graceful stop after so many seconds, where
    the node can do so.
    """

    store: Store
    hosts: Mapping[str, Context]
    requester: Jid | None = None
    shut_down: Callable[[float], None] | None = None

    def host(self, domain: str) -> Context:
        """The context of a served domain that the requester administers."""
        ctx = self.hosts.get(domain)
        if ctx is None:
            raise CommandError("item-not-found", f"{domain} is not served here")
        if self.requester is not None and not ctx.is_admin(self.requester):
            raise CommandError("forbidden", f"{self.requester.bare} does not administer {domain}")
        return ctx

    def account(self, jid: Jid) -> Jid:
        """The bare JID of a served domain's account (it may not exist yet)."""
        if jid.local is None:
            raise CommandError("jid-malformed", f"{jid} is not an account; write name@{jid.domain}")
        self.host(jid.domain)
        return jid.bare

    def everything(self) -> None:
        """Raises `forbidden` unless the requester administers every domain."""
        for domain in self.hosts:
            self.host(domain)


class Parameter(Struct, frozen=True, kw_only=True):
    """One parameter of a command. `default` counts only where it is not required."""

    name: str
    kind: Kind
    doc: str
    is_required: bool
    default: object = None


CommandFunction = Callable[..., Awaitable[object]]
F = TypeVar("F", bound=CommandFunction)


class Command(Struct, frozen=True, kw_only=True):
    """A command: `name` is the function's, `summary` the first line of its docstring."""

    name: str
    summary: str
    doc: str
    parameters: tuple[Parameter, ...]
    function: CommandFunction

    async def run(self, ctx: CommandContext, arguments: Mapping[str, object]) -> object:
        """Converts arguments (as JSON has them) and runs the function.

        The result is None, a number, a struct or a list of structs. Raises CommandError.
        """
        known = {one.name: one for one in self.parameters}
        for name in arguments:
            if name not in known:
                raise CommandError("bad-request", f"{self.name} has no parameter {name}")
        values: dict[str, object] = {}
        for one in self.parameters:
            if arguments.get(one.name) is not None:
                values[one.name] = _converted(one, arguments[one.name])
            elif one.is_required:
                raise CommandError("bad-request", f"{self.name} needs {one.name}")
        return await self.function(ctx, **values)


_COMMANDS: dict[str, Command] = {}


def command(function: F) -> F:
    """Declares a command; the function itself stays as it is."""
    doc = inspect.getdoc(function) or ""
    hints = get_type_hints(function, include_extras=True)
    parameters = tuple(
        _parameter(one, hints[one.name])
        for one in list(inspect.signature(function).parameters.values())[1:]
    )
    _COMMANDS[function.__name__] = Command(
        name=function.__name__,
        summary=doc.partition("\n")[0],
        doc=doc,
        parameters=parameters,
        function=function,
    )
    return function


@cache
def registry() -> Mapping[str, Command]:
    """Every command, by name."""
    package = __name__.rpartition(".")[0]
    path = importlib.import_module(package).__path__
    for entry in pkgutil.iter_modules(path):
        if not entry.name.startswith("_"):
            importlib.import_module(f"{package}.{entry.name}")
    return dict(sorted(_COMMANDS.items()))


def _parameter(one: inspect.Parameter, hint: object) -> Parameter:
    doc = ""
    if get_origin(hint) is Annotated:
        hint, doc = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (arg for arg in get_args(hint) if arg is not NoneType)
    is_required = one.default is inspect.Parameter.empty
    return Parameter(
        name=one.name,
        kind=_KINDS[hint],
        doc=doc,
        is_required=is_required,
        default=None if is_required else one.default,
    )


def _converted(one: Parameter, value: object) -> object:
    if one.kind == "jid" and isinstance(value, str):
        return _jid(value)
    if one.kind == "jids" and isinstance(value, list):
        return [_jid(text) for text in cast("list[object]", value)]
    expected = {"text": str, "secret": str, "number": int, "flag": bool}.get(one.kind)
    is_flag = isinstance(value, bool)
    if expected is None or not isinstance(value, expected) or is_flag != (expected is bool):
        raise CommandError("bad-request", f"{one.name} is not a {one.kind}")
    return value


def _jid(text: object) -> Jid:
    if not isinstance(text, str):
        raise CommandError("bad-request", "an address is a text")
    try:
        return Jid(text)
    except JidError as err:
        raise CommandError("jid-malformed", f'"{text}" is not an address: {err}') from err
