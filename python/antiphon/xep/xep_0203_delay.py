# SPDX-License-Identifier: Apache-2.0
"""XEP-0203 Delayed Delivery 2.0: when a message that waited was sent.

Done in the core, which also drops stamps that a client forges in the server's name. Announced as
other servers do, though the specification no longer asks for it.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    203,
    version="2.0",
    title="Delayed Delivery",
    features=[ns.DELAY],
    is_switchable=False,
)
