# SPDX-License-Identifier: Apache-2.0
"""What the wire and interoperability tests stand on: a raw client, servers, accounts."""
