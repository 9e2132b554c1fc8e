# SPDX-License-Identifier: Apache-2.0
"""XEP-0359 Unique and Stable Stanza IDs 0.7.0: all devices know a message by the same id.

Done in the core: a message that is archived carries its place in the archive, on every copy that
the owner of the archive gets and on no other; ids that somebody else wrote in the account's name
are taken away, archived or not.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    359,
    version="0.7.0",
    title="Unique and Stable Stanza IDs",
    features=[ns.SID],
    account_features=[ns.SID],
    is_switchable=False,
)
