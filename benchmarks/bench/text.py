# SPDX-License-Identifier: Apache-2.0
"""The words that archived messages are made of."""

from __future__ import annotations

import math
import random
from pathlib import Path

# As many as people use; drawn by Zipf's law (benchmarks/load/src/words.rs), the commonest first.
VOCABULARY = 50_000

_CONSONANTS = "tnsrhldcmfpgwybv"
_VOWELS = "eaoiu"


def vocabulary() -> list[str]:
    """Different words of 2 to 14 letters, the same in every run: the commoner, the shorter."""
    dice = random.Random(7)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        length = 2 + int(math.log2(len(words) + 1)) // 2 + dice.randrange(4)
        letters = (dice.choice(_VOWELS if at % 2 else _CONSONANTS) for at in range(length))
        words["".join(letters)] = None
    return list(words)


def write(path: Path) -> None:
    """One word a line."""
    path.write_text("\n".join(vocabulary()) + "\n")
