# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §3 and §4 Presence: subscriptions, and who is there.

Done in the core, pre-approval (§3.4) included.
"""

from antiphon.xep._declare import Rfc

rfc = Rfc(6121, "3, 4", title="Subscriptions and presence", is_switchable=False)
