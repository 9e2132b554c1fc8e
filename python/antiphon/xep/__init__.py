# SPDX-License-Identifier: Apache-2.0
"""The XMPP extension protocols, one declarative file each."""
