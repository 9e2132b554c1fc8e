# SPDX-License-Identifier: Apache-2.0
"""What the parts of `storage.api` are made of."""

from typing import TypeVar

from antiphon.hooks.context import Link

T = TypeVar("T")


def as_type(kind: type[T], value: object) -> T:
    """The core's answer, which must be of this type; anything else is our fault."""
    if not isinstance(value, kind):
        raise TypeError(f"the core answered {type(value).__name__}, not {kind.__name__}")
    return value


class Part:
    """Calls about one thing."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link
