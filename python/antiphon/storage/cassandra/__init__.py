# SPDX-License-Identifier: Apache-2.0
"""Cassandra from the operator's side: migrations and checks. The node's engine is Rust."""
