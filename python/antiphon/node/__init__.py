# SPDX-License-Identifier: Apache-2.0
"""One node: the only place where the parts are put together."""
