# SPDX-License-Identifier: Apache-2.0
"""A median and what lies around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A median and its extremes."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None without values."""
        return cls(median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        middle = short(self.middle)
        if self.least == self.most:
            return middle
        return f"{middle} ({short(self.least)}..{short(self.most)})"


def short(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
