# SPDX-License-Identifier: Apache-2.0
"""XEP-0198 Stream Management 1.6.3: nothing is lost when a connection breaks.

Done in the core: acknowledgements, resumption, and what becomes of unacknowledged stanzas.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    198,
    version="1.6.3",
    title="Stream Management",
    core="sm",
)
