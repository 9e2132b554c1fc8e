# SPDX-License-Identifier: Apache-2.0
"""XEP-0352 Client State Indication 1.0.0: a phone in the pocket is not woken for nothing.

Done in the core: what waits while a client is inactive.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    352,
    version="1.0.0",
    title="Client State Indication",
    core="csi",
)
