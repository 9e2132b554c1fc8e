# SPDX-License-Identifier: Apache-2.0
"""XEP-0004 Data Forms 2.13.2: forms to fill out, inside other protocols.

Values only (`antiphon.xmpp.forms`). Not announced: the server takes no form of its own, and support
inside a protocol is implied by that protocol (XEP-0004 #disco).
"""

from antiphon.xep._declare import Xep

xep = Xep(
    4,
    version="2.13.2",
    title="Data Forms",
    is_switchable=False,
)
