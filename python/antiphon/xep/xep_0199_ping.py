# SPDX-License-Identifier: Apache-2.0
"""XEP-0199 XMPP Ping 2.0.1: both sides can ask whether the other is still there.

Done in the core, both ways.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    199,
    version="2.0.1",
    title="XMPP Ping",
    features=[ns.PING],
    account_features=[ns.PING],
    core="ping",
)
