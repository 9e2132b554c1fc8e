# SPDX-License-Identifier: Apache-2.0
"""What features plug into: the context of a host, and typed hook points."""
