# SPDX-License-Identifier: Apache-2.0
"""What every section of `antiphon.toml` is made of."""

from __future__ import annotations

from msgspec import Struct

PATH = {"kind": "path"}
"""`Meta(extra=PATH)` marks a file name: taken relative to the configuration file."""
SECRET = {"kind": "secret"}
"""`Meta(extra=SECRET)` marks what is never printed or logged."""


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""
