# SPDX-License-Identifier: Apache-2.0
"""Unit tests need no built library: stand-ins take its place where it is missing."""

from tests.unit.fake_values import install

install()
