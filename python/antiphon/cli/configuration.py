# SPDX-License-Identifier: Apache-2.0
"""`antiphon config`: the configuration file's form."""

from __future__ import annotations

import click

from antiphon.config import render
from antiphon.xep._registry import registry


@click.group()
def config() -> None:
    """Show what a configuration file can hold."""


@config.command()
def example() -> None:
    """Print a commented example with every key."""
    click.echo(render.example(registry().configs()), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema, for editors."""
    click.echo(render.json_schema(registry().configs()), nl=False)
