# SPDX-License-Identifier: Apache-2.0
"""Planning for several nodes; a node is alone so far."""
