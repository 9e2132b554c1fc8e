# SPDX-License-Identifier: Apache-2.0
"""XEP-0156 Discovering Alternative XMPP Connection Methods 1.4.0: browsers find the WebSocket.

`/.well-known/host-meta` and its JSON form are served over HTTP by `antiphon.admin`.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    156,
    version="1.4.0",
    title="Discovering Alternative XMPP Connection Methods",
    is_switchable=False,
)
