# SPDX-License-Identifier: Apache-2.0
"""Account back ends outside the node; there is none yet."""
