# SPDX-License-Identifier: Apache-2.0
"""Three nodes, etcd, Cassandra, their networks, the load on them and the verdict."""
