# SPDX-License-Identifier: Apache-2.0
"""XEP-0128 Service Discovery Extensions 1.0.1: forms in the server's discovery answer.

Features give their forms through `HOST_FORMS` of XEP-0030.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    128,
    version="1.0.1",
    title="Service Discovery Extensions",
    requires=[4, 30],
    is_switchable=False,
)
