# SPDX-License-Identifier: Apache-2.0
"""XEP-0114 Jabber Component Protocol 1.6: gateways and services as processes of their own.

The streams of components are the core's; the configured ones are items of their host (XEP-0030).
"""

from antiphon.xep._declare import Xep

xep = Xep(
    114,
    version="1.6",
    title="Jabber Component Protocol",
    is_switchable=False,
    status="partial",
    note="accept only",
)
