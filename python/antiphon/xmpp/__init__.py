# SPDX-License-Identifier: Apache-2.0
"""Values of the protocol: addresses, stanzas, errors, forms, result pages, discovery answers."""
