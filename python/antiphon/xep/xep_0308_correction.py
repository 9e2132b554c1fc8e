# SPDX-License-Identifier: Apache-2.0
"""XEP-0308 Last Message Correction 1.2.1: a search finds what a message says now.

Corrections pass and are archived like any message. The archive keeps the corrected message where it
was, and a search finds only what it says now.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    308,
    version="1.2.1",
    title="Last Message Correction",
    is_switchable=False,
)
