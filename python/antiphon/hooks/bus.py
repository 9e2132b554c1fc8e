# SPDX-License-Identifier: Apache-2.0
"""Typed hook points: one feature asks, any number of others answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar, cast

C = TypeVar("C")
A = TypeVar("A")
R = TypeVar("R")


class Point(Generic[C, A, R]):
    """A question that features answer: called with the context `C` and an argument `A`, gives `R`.

    Where answers may await, `R` is an Awaitable. Compared by identity; `name` is for messages.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Point({self.name!r})"


class Bus:
    """The handlers of one host's enabled features, by point, in the order of the features."""

    __slots__ = ("_handlers",)

    def __init__(self, handlers: Mapping[object, Sequence[object]]) -> None:
        self._handlers = handlers

    def of(self, point: Point[C, A, R]) -> Sequence[Callable[[C, A], R]]:
        """Handlers of this point."""
        return cast("Sequence[Callable[[C, A], R]]", self._handlers.get(point, ()))
