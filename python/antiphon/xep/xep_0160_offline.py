# SPDX-License-Identifier: Apache-2.0
"""XEP-0160 Best Practices for Handling Offline Messages 1.0.1: messages wait for who is away.

Done in the core: what is kept, how many, and the delivery once a presence takes messages.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    160,
    version="1.0.1",
    title="Best Practices for Handling Offline Messages",
    features=[ns.OFFLINE],
    requires=[203],
    core="offline",
)
