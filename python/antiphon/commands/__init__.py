# SPDX-License-Identifier: Apache-2.0
"""Administrative commands: one typed function each, for the command line, REST and XEP-0133."""

from antiphon.commands._registry import (
    Command,
    CommandContext,
    CommandError,
    Parameter,
    Secret,
    registry,
)

__all__ = ["Command", "CommandContext", "CommandError", "Parameter", "Secret", "registry"]
