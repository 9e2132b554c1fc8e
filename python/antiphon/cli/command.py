# SPDX-License-Identifier: Apache-2.0
"""`antiphon command`: every administrative command, as `antiphon.commands` declares it."""

from __future__ import annotations

import json
from collections.abc import Callable

import click

from antiphon.cli.shared import ask_password, config_option, json_option, run
from antiphon.commands import Command, Parameter, registry

_TYPES = {"number": click.INT, "text": click.STRING, "jid": click.STRING, "secret": click.STRING}


class Commands(click.Group):
    """A subcommand for each command, made when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as they are written here."""
        del ctx
        return [name.replace("_", "-") for name in registry()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of this name."""
        del ctx
        found = registry().get(cmd_name.replace("-", "_"))
        return None if found is None else subcommand(found)


@click.group(cls=Commands)
def command() -> None:
    """Run any administrative command (the same as by XEP-0133)."""


def subcommand(found: Command) -> click.Command:
    """Required parameters are arguments in their order, the others options; secrets are asked."""

    def call(config_file: str | None, as_json: bool, **given: object) -> None:
        arguments = dict(given)
        for one in found.parameters:
            if one.kind == "secret" and one.is_required and arguments.get(one.name) is None:
                arguments[one.name] = ask_password(str(arguments.get("jid", one.name)))
            elif isinstance(value := arguments.get(one.name), tuple):
                arguments[one.name] = list(value)
        chosen = {name: value for name, value in arguments.items() if value is not None}
        result = run(config_file, lambda to: to.run(found.name, chosen))
        if as_json:
            click.echo(json.dumps(result, ensure_ascii=False))
        else:
            for line in text_lines(result):
                click.echo(line)

    made: Callable[..., None] = json_option(config_option(call))
    for one in reversed(found.parameters):
        made = _parameter(one)(made)
    return click.command(found.name.replace("_", "-"), help=found.doc)(made)


def text_lines(result: object) -> list[str]:
    """A result for people: one line for each thing, fields separated by tabs."""
    if result is None:
        return []
    if isinstance(result, list):
        return ["\t".join(text_lines(one)) for one in result]
    if isinstance(result, dict):
        return [f"{name}={_text(value)}" for name, value in result.items()]
    return [_text(result)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parameter(one: Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    name = f"--{one.name.replace('_', '-')}"
    if one.kind == "flag":
        return click.option(f"{name}/--no-{name[2:]}", one.name, default=None, help=one.doc)
    if one.kind == "jids":
        return click.argument(one.name, nargs=-1, required=one.is_required)
    if one.is_required and one.kind != "secret":
        return click.argument(one.name, type=_TYPES[one.kind])
    return click.option(name, one.name, type=_TYPES[one.kind], default=None, help=one.doc)
