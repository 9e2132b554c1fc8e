# SPDX-License-Identifier: Apache-2.0
"""How a node is operated: the admin socket, and health and metrics over HTTP."""
