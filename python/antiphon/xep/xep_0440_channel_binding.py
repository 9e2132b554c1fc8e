# SPDX-License-Identifier: Apache-2.0
"""XEP-0440 SASL Channel-Binding Type Capability 1.0.0: logins bound to their TLS connection.

Done in the core: the types it announces are those it accepts.
"""

from antiphon.xep._declare import Xep

xep = Xep(
    440,
    version="1.0.0",
    title="SASL Channel-Binding Type Capability",
    is_switchable=False,
)
