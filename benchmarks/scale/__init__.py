# SPDX-License-Identifier: Apache-2.0
"""How many nodes for how many sessions."""
