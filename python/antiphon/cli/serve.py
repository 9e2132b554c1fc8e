# SPDX-License-Identifier: Apache-2.0
"""`antiphon serve`: a node in the foreground."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from antiphon import __version__
from antiphon._library import is_stale
from antiphon.cli.shared import config_option, load
from antiphon.config.check import parse_address
from antiphon.config.core import websocket_url
from antiphon.node import lifecycle, log
from antiphon.node.app import Node

_log = logging.getLogger(__name__)


@click.command()
@config_option
def serve(config_file: str | None) -> int:
    """Run a node in the foreground.

    Readiness is the log line `node ready` and the HTTP path /readyz. SIGTERM drains and stops,
    SIGHUP reloads configuration and certificates.
    """
    loaded = load(config_file)
    log.configure(loaded.config.log)
    if is_stale():
        _log.warning("library older than its sources", extra={"advice": "run make build"})

    async def inner() -> int:
        node = Node(loaded, lambda: load(config_file))
        has_banner = loaded.origin.file is None or sys.stdout.isatty()
        return await lifecycle.serve(node, welcome if has_banner else lambda _node: None)

    return asyncio.run(inner())


def welcome(node: Node) -> None:
    """Tells a newcomer where to connect and how to create an account."""
    domain = node.config.domains[0]
    lines = [f"Antiphon {__version__} serves {', '.join(node.config.domains)}", ""]
    served = [one for one in node.config.listeners() if one.kind != "cluster"]
    for listener, (_kind, bound) in zip(served, node.core.addresses(), strict=False):
        if listener.kind == "c2s":
            address = parse_address(bound)
            port = address[1] if address is not None else bound
            how = {"starttls": "STARTTLS", "direct": "direct TLS", "none": "no TLS"}
            lines.append(f"  clients    {domain}, port {port} ({how[listener.security]})")
    url = websocket_url(node.config, domain)
    if url is not None:
        lines.append(f"  WebSocket  {url}")
    lines += [
        f"  account    {_command()} account create alice@{domain}",
        f"  data       {Path(node.config.data_dir).resolve()}",
        "  stop       Ctrl-C",
        "",
    ]
    click.echo("\n".join(lines))


def _command() -> str:
    """How this program is called from the working directory."""
    program = Path(sys.argv[0])
    if program.name != "antiphon":
        return "python -m antiphon"
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)
