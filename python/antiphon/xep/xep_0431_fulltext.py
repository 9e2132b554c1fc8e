# SPDX-License-Identifier: Apache-2.0
"""XEP-0431 Full Text Search in MAM 0.2.0: finds any sentence of the whole history.

A field of the archive's query form, combined with all others. Every word must occur, in any order
and anywhere in the text; accents and case make no difference. `"two words"` is a phrase, `beg*` the
beginning of a word, nothing else is syntax. Encrypted messages are never indexed.
"""

from antiphon.xep._declare import Xep
from antiphon.xmpp import ns

xep = Xep(
    431,
    version="0.2.0",
    title="Full Text Search in MAM",
    owner_features=[ns.FULLTEXT],
    requires=[313],
)
