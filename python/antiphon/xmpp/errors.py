# SPDX-License-Identifier: Apache-2.0
"""Stanza errors (RFC 6120 §8.3): the answer to one stanza; the stream lives on."""

from typing import Final, Literal, Self

from antiphon._core import Element, Stanza
from antiphon.xmpp import ns

Condition = Literal[
    "bad-request",
    "conflict",
    "feature-not-implemented",
    "forbidden",
    "gone",
    "internal-server-error",
    "item-not-found",
    "jid-malformed",
    "not-acceptable",
    "not-allowed",
    "not-authorized",
    "policy-violation",
    "recipient-unavailable",
    "redirect",
    "registration-required",
    "remote-server-not-found",
    "remote-server-timeout",
    "resource-constraint",
    "service-unavailable",
    "subscription-required",
    "undefined-condition",
    "unexpected-request",
]
ErrorType = Literal["auth", "cancel", "continue", "modify", "wait"]

ERROR_TYPES: Final[tuple[ErrorType, ...]] = ("auth", "cancel", "continue", "modify", "wait")

USUAL_TYPES: Final[dict[Condition, ErrorType]] = {
    "bad-request": "modify",
    "conflict": "cancel",
    "feature-not-implemented": "cancel",
    "forbidden": "auth",
    "gone": "cancel",
    "internal-server-error": "cancel",
    "item-not-found": "cancel",
    "jid-malformed": "modify",
    "not-acceptable": "modify",
    "not-allowed": "cancel",
    "not-authorized": "auth",
    "policy-violation": "modify",
    "recipient-unavailable": "wait",
    "redirect": "modify",
    "registration-required": "auth",
    "remote-server-not-found": "cancel",
    "remote-server-timeout": "wait",
    "resource-constraint": "wait",
    "service-unavailable": "cancel",
    "subscription-required": "auth",
    "undefined-condition": "cancel",
    "unexpected-request": "wait",
}
"""Every defined condition with the type that usually goes with it, in the order of RFC 6120 §8.3.3.

The Rust table (`StanzaCondition`) must be equal; a parity test compares them.
"""


class StanzaError(Exception):
    """An error to answer a stanza with, or the error a peer answered our request with.

    `type` is the usual one of the condition unless given. `app` is an application-specific
    condition element (RFC 6120 §8.3.4).
    """

    def __init__(
        self,
        condition: Condition,
        text: str | None = None,
        type: ErrorType | None = None,
        app: Element | None = None,
    ) -> None:
        super().__init__(condition if text is None else f"{condition}: {text}")
        self.condition: Condition = condition
        self.text = text
        self.type: ErrorType = type or USUAL_TYPES[condition]
        self.app = app

    @classmethod
    def named(cls, condition: str, text: str | None = None, type: str | None = None) -> Self:
        """The error of this name; an unknown condition becomes `undefined-condition`."""
        known: Condition = condition if condition in USUAL_TYPES else "undefined-condition"
        return cls(known, text, type if type in ERROR_TYPES else None)

    @classmethod
    def of_stanza(cls, stanza: Stanza) -> Self:
        """The error that an answer of type `error` carries (RFC 6120 §8.3.2)."""
        error = stanza.element.find(ns.CLIENT, "error")
        if error is None:
            return cls("undefined-condition", "the error answer holds no error")
        condition = "undefined-condition"
        text: str | None = None
        for child in error.children:
            if child.ns != ns.STANZA_ERRORS:
                continue
            if child.name == "text":
                text = child.text
            else:
                condition = child.name
        return cls.named(condition, text, error.get("type"))
