"""Values of the protocol: addresses, stanzas, errors, forms, result pages, discovery answers."""
