# SPDX-License-Identifier: Apache-2.0
"""XEP-0334 Message Processing Hints 1.0.0: a sender says what is to be stored and copied.

Done in the core: offline storage and carbons obey them. Announced by their namespace, though the
specification names no feature.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    334,
    version="1.0.0",
    title="Message Processing Hints",
    features=[ns.HINTS],
    is_switchable=False,
)
