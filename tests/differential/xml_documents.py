# SPDX-License-Identifier: Apache-2.0
"""Streams for the differential test of the XML reader: generated, then mutated. Seeded."""

from __future__ import annotations

from random import Random

CLIENT = "jabber:client"
STREAM = "http://etherx.jabber.org/streams"
HEADER = (
    f"<stream:stream xmlns='{CLIENT}' xmlns:stream='{STREAM}' xmlns:h='urn:h' version='1.0'>"
).encode()
FOOTER = b"</stream:stream>"
PROLOGS = [
    "<?xml version='1.0'?>", '<?xml version = "1.0" encoding="UTF-8" ?>\n', "\ufeff", "\ufeff<?xml version='1.0'?>", " \n",
    "<?xml version='1.0' encoding='utf-8' standalone='no'?>", "<?xml version='1.0' standalone='yes'?>", "<?xml ?>",
    "<?xml version='1.0' encoding='ISO-8859-1'?>", "<?xml version='1.0' encoding='UTF-16'?>", " <?xml version='1.0'?>",
    "<?xml version='1.0' encoding='US-ASCII'?>", "<?xml version='1.0' encoding=''?>", "<?xml version='2.0'?>",
    "<?xml version='1.0'encoding='UTF-8'?>", "<?xml encoding='UTF-8'?>", "<?xml version='1.0' standalone='maybe'?>",
    "<?xml version='1.0' standalone='no' encoding='UTF-8'?>", "<?xml version='1.0'?><?xml version='1.0'?>", "<?pi?>",
    "<?XML version='1.0'?>", "<?xml-x?>", "<!-- c -->", "<!DOCTYPE a>", "x", "&#32;", "<?xml version='1.7'?>", "<?xml version=''?>",
    "<?xml version='1.0' foo='bar'?>", "<?xml version='1.0\"?>", "<?xmlversion='1.0'?>", "<?xml\tversion='1.0'\r\n?>", "\ufeff\ufeff",
]  # fmt: skip

NAMES = ["a", "b", "body", "x", "message", "iq", "_", "a-1.b", "é", "名", "xmlns", "xml", "stream"]
BAD_NAMES = [
    "1a",
    "",
    "-",
    "a:b:c",
    ":a",
    "a:",
    "\U00010000",
    "a\u00d7",
    "a b",
    "\u0301",
    "a\u2028",
    "n" * 1024,
    "n" * 1025,
]
PREFIXES = ["p", "q", "h", "stream", "xml", "xmlns", "nope", "é", "XML"]
URIS = [
    "urn:p",
    "urn:q",
    "urn:h",
    CLIENT,
    "jabber:server",
    "",
    STREAM,
    "urn:x:1",
    "urn:&amp;",
    "http://e.org:80/a?b#c",
    "urn:%C3%A9",
]
BAD_URIS = [
    "http://www.w3.org/XML/1998/namespace",
    "http://www.w3.org/2000/xmlns/",
    "a b",
    "a}b",
    "urn:\n",
    "<",
    "&#32;",
    "{x}",
    "http://e.org/#é",
    "1:a",
    "a#b#c",
    "%zz",
    "//[::1",
]
TEXTS = [
    "hi",
    " ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "é",
    "😀",
    "\ufeff",
    "\x7f",
    "\u0085",
    "]]",
    "]]&gt;",
    "&lt;&amp;",
    "&gt;&apos;&quot;",
    "&#65;&#x1F600;",
    "&#13;&#10;&#9;",
    "'\"",
    ">",
    "\ufffd",
    "\ud7ff",
    "\ue000",
]
BAD_TEXTS = [
    "\x00", "\x01", "\x1f", "\ufffe", "\uffff", "]]>", "&", "&;", "&foo;", "&#0;", "&#xFFFE;", "&#xD800;",
    "&#x110000;", "&#99999999999;", "&#;", "&#x;", "&lt", "&#X41;", "<", "&#65", "& amp;", "<![CDATA[", "<!-- c -->",
    "<?pi x?>", "<!DOCTYPE a>", "<!ENTITY a 'b'>", "<?xml version='1.0'?>", "</a>", "<![cdata[x]]>", "<!-- -- -->",
]  # fmt: skip
CDATA = [
    "<![CDATA[]]>",
    "<![CDATA[<&>]]>",
    "<![CDATA[ ]] > ]]]>",
    "<![CDATA[\r\n]]>",
    "<![CDATA[&foo;]]>",
]
SPLICES = [
    b"<", b">", b"&", b"'", b'"', b"/", b"=", b" ", b"\t", b":", b"]]>", b"<!", b"<?", b"--", b"\xff", b"\xc3", b"\xa9",
    b"\xed\xa0\x80", b"\xef\xbf\xbe", b"\xf0\x9f\x98\x80", b"\x00", b"\x0b", b"xmlns=''", b" xmlns:p=''", b"&#", b";",
    b"</stream:stream>", b"<stream:stream>", b"<a/>", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
]  # fmt: skip


class Documents:
    """An endless supply of streams, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        # How often a deliberate fault is put in, per choice.
        self._faults = 0.0

    def next(self) -> bytes:
        """A header, up to three first-level elements, mostly a footer; mutated three times in five."""
        random = self._random
        self._faults = random.choice((0.0, 0.0, 0.01, 0.05))
        count = random.randint(1, 3)
        body = "".join(self._first_level() for _ in range(count)).encode("utf-8", "surrogatepass")
        for _ in range(random.choice((0, 0, 1, 1, 2))):
            body = self._mutated(body)
        prolog = random.choice(PROLOGS) if random.random() < 0.05 else ""
        return prolog.encode() + HEADER + body + FOOTER

    def _pick(self, good: list[str], bad: list[str]) -> str:
        return self._random.choice(bad if self._random.random() < self._faults else good)

    def _first_level(self) -> str:
        space = self._random.choice(("", "", " ", "\n"))
        kind = self._random.choice(("message", "message", "presence", "iq", ""))
        return space + self._element(0, kind)

    def _qname(self, known: list[str]) -> str:
        name = self._pick(NAMES, BAD_NAMES)
        if self._random.random() < 0.3:
            prefix = self._random.choice(
                known if known and self._random.random() > self._faults else PREFIXES
            )
            return f"{prefix}:{name}"
        return name

    def _attributes(self, known: list[str]) -> str:
        random = self._random
        out: list[str] = []
        used: set[str] = set()
        for _ in range(random.choice((0, 0, 1, 1, 2, 3))):
            roll = random.random()
            if roll < 0.25:
                prefix = random.choice(PREFIXES[:3] if random.random() > self._faults else PREFIXES)
                name, value = f"xmlns:{prefix}", self._pick(URIS, BAD_URIS)
                if not value and random.random() > self._faults:
                    value = "urn:p"
                known.append(prefix)
            elif roll < 0.45:
                name, value = "xmlns", self._pick(URIS, BAD_URIS)
            elif roll < 0.55:
                name, value = "xml:lang", random.choice(("en", "de", ""))
            else:
                name, value = self._qname(known), self._pick(TEXTS, BAD_TEXTS)
            if name in used and random.random() > self._faults:
                continue
            used.add(name)
            quote = '"' if "'" in value else "'"
            if quote in value:
                value = value.replace(quote, "")
            space = random.choice(
                (" ", " ", "\n", "\t ", "" if random.random() < self._faults else " ")
            )
            equals = random.choice(("=", "=", " = ", "=\n"))
            out.append(f"{space}{name}{equals}{quote}{value}{quote}")
        return "".join(out)

    def _element(self, depth: int, kind: str = "", known: list[str] | None = None) -> str:
        random = self._random
        known = [*(known or ["h"])]
        attributes = self._attributes(known)
        name = kind or self._qname(known)
        if kind and random.random() < 0.1:
            name, attributes = f"c:{kind}", f" xmlns:c='{CLIENT}'" + attributes
            known.append("c")
        if random.random() < 0.25:
            return f"<{name}{attributes}{random.choice(('', ' '))}/>"
        children: list[str] = []
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            roll = random.random()
            if roll < 0.5 and depth < 4:
                children.append(self._element(depth + 1, known=known))
            elif roll < 0.9:
                children.append(self._pick(TEXTS, BAD_TEXTS))
            else:
                children.append(random.choice(CDATA))
        close = random.choice((name, name, name, name + " "))
        if random.random() < self._faults / 2:
            close = self._qname(known)
        return f"<{name}{attributes}>{''.join(children)}</{close}>"

    def _mutated(self, body: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(body) + 1)
        end = min(len(body), at + random.choice((0, 1, 1, 2, 5, 12)))
        roll = random.random()
        if roll < 0.35:
            return body[:at] + random.choice(SPLICES) + body[end if random.random() < 0.3 else at :]
        if roll < 0.6:
            return body[:at] + body[end:]
        if roll < 0.8:
            to = random.randrange(len(body) + 1)
            return body[:to] + body[at:end] + body[to:]
        if at == len(body):
            return body
        return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]
