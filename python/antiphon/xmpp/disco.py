# SPDX-License-Identifier: Apache-2.0
"""Discovery answers (XEP-0030) and the hash that names them (XEP-0115)."""

import base64
import hashlib
from collections.abc import Iterable
from typing import Final, Self

from msgspec import Struct

from antiphon.xmpp import ns
from antiphon.xmpp.jid import Jid
from antiphon.xmpp.stanza import E, Element, language

HASHES: Final[dict[str, str]] = {"sha-1": "sha1", "sha-256": "sha256", "sha-512": "sha512"}
"""Hash names (IANA's textual names) that we verify, with hashlib's. SHA-1 is mandatory."""

MAX_PARTS: Final = 1_000
"""Identities, features and form fields of an answer that we verify; more is ill-formed."""


class IllFormedError(ValueError):
    """A discovery answer that must not be cached (XEP-0115 #ver-proc, steps 3.3 to 3.5)."""


class Identity(Struct, frozen=True, order=True):
    """What an entity is: category, type, language, name; sorted in this order."""

    category: str
    type: str
    lang: str = ""
    name: str = ""

    def to_element(self) -> Element:
        """`<identity/>` (without a language: ours have none)."""
        return E(
            "identity",
            ns.DISCO_INFO,
            category=self.category,
            type=self.type,
            name=self.name or None,
        )


class Item(Struct, frozen=True):
    """One item of disco#items."""

    jid: Jid
    node: str | None = None
    name: str | None = None

    def to_element(self) -> Element:
        """`<item/>`."""
        return E("item", ns.DISCO_ITEMS, jid=str(self.jid), node=self.node, name=self.name)


class Info(Struct, frozen=True):
    """The answer to disco#info: identities, features, and forms of XEP-0128."""

    identities: tuple[Identity, ...]
    features: tuple[str, ...]
    forms: tuple[Element, ...] = ()

    def to_element(self, node: str | None = None) -> Element:
        """`<query/>`; `node` mirrors the request's."""
        return E(
            "query",
            ns.DISCO_INFO,
            *(identity.to_element() for identity in self.identities),
            *(E("feature", ns.DISCO_INFO, var=feature) for feature in self.features),
            *self.forms,
            node=node,
        )

    @classmethod
    def of(cls, query: Element) -> Self:
        """Reads an answer. Raises IllFormedError above MAX_PARTS or for lacking attributes."""
        identities: list[Identity] = []
        features: list[str] = []
        forms: list[Element] = []
        children = query.children
        if len(children) > MAX_PARTS:
            raise IllFormedError("too many parts")
        for child in children:
            if child.ns == ns.DISCO_INFO and child.name == "identity":
                category, kind = child.get("category"), child.get("type")
                if category is None or kind is None:
                    raise IllFormedError("an identity lacks category or type")
                lang = language(child) or ""
                identities.append(Identity(category, kind, lang, child.get("name") or ""))
            elif child.ns == ns.DISCO_INFO and child.name == "feature":
                var = child.get("var")
                if var is None:
                    raise IllFormedError("a feature lacks its name")
                features.append(var)
            elif child.ns == ns.DATA and child.name == "x":
                forms.append(child)
        return cls(tuple(identities), tuple(features), tuple(forms))


def verification(info: Info, hash_name: str) -> str:
    """The `ver` of this answer (XEP-0115 #ver-gen).

    Raises IllFormedError for an answer that names something twice, KeyError if `hash_name`
    is none of HASHES.
    """
    # i;octet is the order of the UTF-8 bytes, which is that of the code points.
    if len(set(info.identities)) != len(info.identities):
        raise IllFormedError("an identity twice")
    if len(set(info.features)) != len(info.features):
        raise IllFormedError("a feature twice")
    parts = [f"{i.category}/{i.type}/{i.lang}/{i.name}" for i in sorted(info.identities)]
    parts += sorted(info.features)
    for form_type, fields in sorted(_forms(info.forms).items()):
        parts.append(form_type)
        for var, values in sorted(fields):
            parts.append(var)
            parts += values
    # A '<' inside a part would let two different answers have one string (XEP-0115 §9.3).
    if any("<" in part for part in parts):
        raise IllFormedError("a part holds the separator")
    text = "".join(f"{part}<" for part in parts)
    digest = hashlib.new(HASHES[hash_name], text.encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _forms(forms: Iterable[Element]) -> dict[str, list[tuple[str, list[str]]]]:
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for form in forms:
        form_type: str | None = None
        fields: list[tuple[str, list[str]]] = []
        for field in form.children:
            if field.ns != ns.DATA or field.name != "field":
                continue
            values = [v.text for v in field.children if v.ns == ns.DATA and v.name == "value"]
            var = field.get("var") or ""
            if var != "FORM_TYPE":
                fields.append((var, sorted(values)))
            elif field.get("type") == "hidden" and values:
                if len(set(values)) > 1:
                    raise IllFormedError("a FORM_TYPE with several values")
                form_type = values[0]
        if form_type is None:
            continue  # Step 3.6: such a form is ignored.
        if form_type in found:
            raise IllFormedError("two forms of one FORM_TYPE")
        found[form_type] = fields
    return found
