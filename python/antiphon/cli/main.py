# SPDX-License-Identifier: Apache-2.0
"""The command line's entry, and the way every error leaves it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from antiphon import __version__
from antiphon._core import ConfigError
from antiphon.cli.account import account
from antiphon.cli.check import check
from antiphon.cli.cluster import cluster_group
from antiphon.cli.command import command
from antiphon.cli.configuration import config
from antiphon.cli.migrate import migrate
from antiphon.cli.serve import serve
from antiphon.config.problem import ConfigProblems
from antiphon.node.app import NodeError
from antiphon.xmpp.errors import StanzaError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="antiphon", message="%(prog)s %(version)s")
def cli() -> None:
    """Antiphon, an XMPP server."""


for _command in (serve, check, migrate, cluster_group, account, config, command):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process.

    Exit codes: 0 done, 1 refused or failed, 2 a wrong command line, 130 interrupted.
    """
    try:
        code = cli.main(arguments, prog_name="antiphon", standalone_mode=False)
    except ConfigProblems as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        code = 1
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "antiphon"
        code = _said(f"{error.format_message()} (see {path} --help)", 2)
    except click.ClickException as error:
        code = _said(error.format_message(), 1)
    except StanzaError as error:
        code = _said(error.text or error.condition, 1)
    except (NodeError, ConfigError) as error:
        code = _said(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); the interpreter must not complain at exit.
        sys.stderr.close()
        code = 1
    sys.exit(code)


def _said(text: str, code: int) -> int:
    click.echo(f"antiphon: {' '.join(text.split())}", err=True)
    return code
