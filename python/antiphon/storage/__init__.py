# SPDX-License-Identifier: Apache-2.0
"""Typed calls to the storage and the entities of the core."""
