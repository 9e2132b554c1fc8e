# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §5 and §8 Messages: chat, delivered by the rules of §8.5.

Done in the core; a plain message never comes here.
"""

from antiphon.xep._declare import Rfc

rfc = Rfc(6121, "5, 8", title="Messages and delivery rules", is_switchable=False)
