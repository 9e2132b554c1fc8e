# SPDX-License-Identifier: Apache-2.0
"""XEP-0478 Stream Limits Advertisement 0.2.0: a client knows how much it may send.

Done in the core, from `limits.stanza_bytes` and `limits.idle_seconds`.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    478,
    version="0.2.0",
    title="Stream Limits Advertisement",
    is_switchable=False,
)
