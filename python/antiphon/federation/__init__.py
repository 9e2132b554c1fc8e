# SPDX-License-Identifier: Apache-2.0
"""Policy of connections to other servers."""
