# SPDX-License-Identifier: Apache-2.0
"""How a subcommand says that it cannot do what it was told."""

from __future__ import annotations

import click


class Failure(click.ClickException):
    """A mistake of the operator's, or of the surroundings: one line, exit code 1."""
