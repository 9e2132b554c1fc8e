# SPDX-License-Identifier: Apache-2.0
"""RFC 6121: instant messaging and presence. The roster's IQs, and what the core does."""
