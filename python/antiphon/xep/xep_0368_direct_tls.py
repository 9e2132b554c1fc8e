# SPDX-License-Identifier: Apache-2.0
"""XEP-0368 SRV records for XMPP over TLS 1.1.0: TLS from the first byte.

Done in the core: a listener with `tls = "direct"`, with ALPN and SNI.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    368,
    version="1.1.0",
    title="SRV records for XMPP over TLS",
    is_switchable=False,
    status="partial",
    note="clients; federation comes later",
)
