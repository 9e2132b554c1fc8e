# SPDX-License-Identifier: Apache-2.0
"""Antiphon: an XMPP server with a Rust core."""

__version__ = "0.1.0"

__all__ = ["__version__"]
