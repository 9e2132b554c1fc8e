# SPDX-License-Identifier: Apache-2.0
"""XEP-0334 Message Processing Hints 1.0.0: a sender says what is to be stored and copied.

Done in the core: offline storage and carbons obey them. There is no feature to announce.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    334,
    version="1.0.0",
    title="Message Processing Hints",
    is_switchable=False,
)
