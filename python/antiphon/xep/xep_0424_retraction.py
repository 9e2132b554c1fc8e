# SPDX-License-Identifier: Apache-2.0
"""XEP-0424 Message Retraction 0.4.2: what was taken back is gone from the archives, too.

Done in the core: the retraction itself is archived, and in the archives of both sides a tombstone
takes the place of a message that its own sender retracts; a search finds it no more.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    424,
    version="0.4.2",
    title="Message Retraction",
    features=[ns.RETRACT, ns.RETRACT_TOMBSTONE],
    account_features=[ns.RETRACT, ns.RETRACT_TOMBSTONE],
    requires=[313, 359],
    is_switchable=False,
)
