# SPDX-License-Identifier: Apache-2.0
"""Hook points that the registry and the node ask."""

from collections.abc import Awaitable
from typing import Final

from antiphon.hooks.bus import Point
from antiphon.storage.context import Context
from antiphon.xmpp.stanza import Element, Stanza

STREAM_FEATURES: Final[Point[Context, None, Element]] = Point("stream features")
"""An element among the host's stream features after login, fixed while the configuration is."""

CAPS_SEEN: Final[Point[Context, Stanza, Awaitable[None]]] = Point("caps seen")
"""A presence whose entity capabilities the core does not know yet (XEP-0115)."""
