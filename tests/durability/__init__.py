# SPDX-License-Identifier: Apache-2.0
"""Acknowledged means durable, and once: proofs by killing the node; see README.md."""
