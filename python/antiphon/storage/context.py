# SPDX-License-Identifier: Apache-2.0
"""The context that every handler of a feature gets."""

from antiphon.hooks.context import BaseContext
from antiphon.storage.api import Store
from antiphon.xmpp.jid import Jid


class Context(BaseContext, frozen=True, kw_only=True):
    """One served host: its configuration and features, the store, the clock, the way out."""

    store: Store

    async def may_see_presence(self, *, of: Jid, by: Jid) -> bool:
        """Whether `by` is the account itself or subscribed to its presence (RFC 6121 §3.1)."""
        return of == by or await self.store.presence.may_see(of, by)
