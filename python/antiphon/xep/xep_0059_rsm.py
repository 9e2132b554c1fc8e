# SPDX-License-Identifier: Apache-2.0
"""XEP-0059 Result Set Management 1.0: long answers come in pages.

Values only (`antiphon.xmpp.rsm`); disco#items of XEP-0030 uses them.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    59,
    version="1.0",
    title="Result Set Management",
    features=[ns.RSM],
    is_switchable=False,
)
