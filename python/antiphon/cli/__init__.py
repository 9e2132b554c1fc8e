# SPDX-License-Identifier: Apache-2.0
"""The `antiphon` command."""

from antiphon.cli.main import main

__all__ = ["main"]
