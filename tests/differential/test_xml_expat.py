# SPDX-License-Identifier: Apache-2.0
"""The XML reader against expat: the same streams are accepted, with the same trees.

RFC 6120 §11.3 forbids to accept or to forward what is not well-formed; expat says what is. Where
we refuse more than expat does, `argued` holds the reason, and it must hold for the document.
"""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from pyexpat import ExpatError, ParserCreate

import pytest
from lxml import etree  # type: ignore[import-untyped]

from differential.xml_documents import CLIENT, FOOTER, STREAM, Documents

ROOT = Path(__file__).resolve().parents[2]
COUNT = 100_000
SEED = 6120
XML = "http://www.w3.org/XML/1998/namespace"
# RFC 3986, with the ports that libxml2 takes.
CHAR = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})"
AUTHORITY = rf"(?:(?:{CHAR}|:)*@)?(?:\[[0-9A-Fa-f:.]+\]|{CHAR}*)(?::[0-9]{{1,5}})?"
PATH = rf"(?:{CHAR}|[:@/])*"
URI = re.compile(
    rf"(?:[A-Za-z][A-Za-z0-9+.\-]*:|(?![^/?#]*:))(?://{AUTHORITY}(?=[/?#]|\Z)|(?!//))"
    rf"{PATH}(?:\?(?:{CHAR}|[:@/?])*)?(?:#(?:{CHAR}|[:@/?])*)?"
)
LONG_NAME = re.compile(rb"[^ \t\r\n<>/='\"&:]{1025}")
STANZA = re.compile(f"\x01{CLIENT}\x02(message|presence|iq)[\x01\x03-\x05]")
# No document can hold it, so expat never mistakes a part of a name for its separator.
SEPARATOR = "\x06"

Attrs = list[tuple[str, str, str]]


def start(ns: str, name: str, attrs: Attrs) -> str:
    """A start tag as `rust/xmpp/examples/xml_judge.rs` writes it."""
    parts = [f"\x03{ns}\x02{name}\x02{value}" for ns, name, value in sorted(attrs)]
    return f"\x01{ns}\x02{name}{''.join(parts)}"


def split(name: str) -> tuple[str, str]:
    """Namespace and local name from expat's form."""
    ns, separator, local = name.rpartition(SEPARATOR)
    return (ns, local) if separator else ("", name)


@dataclass
class Expat:
    """What expat makes of a stream: verdict, first-level trees, and what an argument rests on."""

    accepted: bool = True
    trees: str = ""
    restricted: bool = False
    bad_format: bool = False
    bad_uri: bool = False
    encoding: bool = False
    version: bool = False
    closed: bool = False
    depth: int = 0
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._out: list[str] = []
        parser = self._parser = ParserCreate(None, SEPARATOR)
        parser.ordered_attributes = True
        parser.buffer_text = False
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartNamespaceDeclHandler = self._namespace
        parser.CommentHandler = self._restrict
        parser.ProcessingInstructionHandler = self._restrict
        parser.StartDoctypeDeclHandler = self._restrict
        parser.StartCdataSectionHandler = self._cdata
        parser.XmlDeclHandler = self._declaration

    def read(self, document: bytes) -> Expat:
        """Parses a whole document."""
        try:
            self._parser.Parse(document, True)
        except ExpatError:
            # What follows the end of a stream is not read.
            self.accepted = self.closed
        self._flush()
        self.trees = "".join(self._out)
        return self

    def _flush(self) -> None:
        if self.text:
            if self.depth > 1:
                self._out.append("\x04" + "".join(self.text))
            self.text.clear()

    def _start(self, name: str, flat: list[str]) -> None:
        self._flush()
        ns, local = split(name)
        if self.depth == 1 and (ns, local) == (STREAM, "stream"):
            self.bad_format = True
        self.depth += 1
        if self.depth > 1:
            pairs = zip(flat[::2], flat[1::2], strict=True)
            self._out.append(start(ns, local, [(*split(name), value) for name, value in pairs]))

    def _end(self, _name: str) -> None:
        self._flush()
        if self.depth > 1:
            self._out.append("\x05")
        self.depth -= 1
        self.closed = self.depth == 0

    def _text(self, text: str) -> None:
        self.bad_format |= self.depth == 1 and text.strip(" \t\r\n") != ""
        self.text.append(text)

    def _cdata(self) -> None:
        self.bad_format |= self.depth == 1

    def _namespace(self, _prefix: str | None, uri: str | None) -> None:
        self.bad_uri |= URI.fullmatch(uri or "") is None

    def _declaration(self, version: str, encoding: str | None, _standalone: int) -> None:
        self.encoding = (encoding or "UTF-8").upper() != "UTF-8"
        self.version = re.fullmatch("1[.][0-9]+", version) is None

    def _restrict(self, *_args: object) -> None:
        self.restricted |= not self.closed


def argued(verdict: str, expat: Expat, document: bytes) -> bool:
    """Whether we may refuse with `verdict` what expat accepts."""
    return {
        # RFC 6120 §11.1: no comments, processing instructions, DTD.
        "Restricted": expat.restricted,
        # RFC 6120 §11.7: only white space between first-level elements; one header a stream.
        # A reference to a space is text as well.
        "BadFormat": expat.bad_format or b"&#" in document,
        # Namespaces in XML §2.1: a namespace name is a URI reference. Expat lets the rest pass
        # only while it is not its separator, which others choose differently; lxml refuses it.
        # RFC 6120 §11.8: XML 1.0, of which expat does not ask the number.
        "NotWellFormed": expat.bad_uri or expat.version,
        # RFC 6120 §11.6: no other encoding than UTF-8.
        "Encoding": expat.encoding,
        # Our own limit: no name or prefix above 1,024 bytes (RFC 6120 §4.9.3.14).
        'Limit("name")': LONG_NAME.search(document) is not None,
    }.get(verdict, False)


def tree_of(element: etree._Element) -> str:
    """A tree of libxml2 in the same form."""
    name = etree.QName(element)
    attrs = [
        (etree.QName(key).namespace or "", etree.QName(key).localname, value)
        for key, value in element.items()
    ]
    out = [start(name.namespace or "", name.localname, attrs)]
    if element.text:
        out.append("\x04" + element.text)
    for child in element:
        out.append(tree_of(child))
        if child.tail:
            out.append("\x04" + child.tail)
    return "".join(out) + "\x05"


@pytest.fixture(scope="session")
def judge() -> Path:
    """The program that runs our reader."""
    command = ["cargo", "build", "--quiet", "--package", "antiphon-xmpp", "--example", "xml_judge"]
    built = subprocess.run(
        [*command, "--message-format", "json"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = [
        line
        for line in built.stdout.splitlines()
        if '"executable":"' in line and '"xml_judge"' in line
    ]
    return Path(found[-1].split('"executable":"', 1)[1].split('"', 1)[0])


def run(judge: Path, documents: list[bytes]) -> list[tuple[str, str, bytes]]:
    """For each document our verdict (`+` or an error), our trees and what we would send on."""
    data = b"".join(struct.pack(">I", len(d)) + d for d in documents)
    out = subprocess.run([judge], input=data, check=True, stdout=subprocess.PIPE).stdout
    fields: list[bytes] = []
    at = 0
    while at < len(out):
        (size,) = struct.unpack_from(">I", out, at)
        fields.append(out[at + 4 : at + 4 + size])
        at += 4 + size
    results: list[tuple[str, str, bytes]] = []
    for judged, sent in zip(fields[::2], fields[1::2], strict=True):
        text = judged.decode()
        verdict, mark, trees = text.partition("\x01")
        results.append((verdict, mark + trees, sent))
    return results


def difference(document: bytes, verdict: str, trees: str, sent: bytes) -> str | None:
    """What expat or libxml2 says otherwise, or nothing."""
    expat = Expat().read(document)
    if verdict != "+":
        if expat.accepted and not argued(verdict, expat, document):
            return f"we refuse ({verdict}), expat accepts"
        return None
    if not expat.accepted:
        return "we accept, expat refuses"
    if expat.trees != trees:
        return f"trees differ:\n ours  {trees!r}\n expat {expat.trees!r}"
    return forwarded(trees, sent)


def forwarded(trees: str, sent: bytes) -> str | None:
    """Whether what goes out to a stream without our header's prefixes is the same tree everywhere."""
    stream = b"<stream:stream xmlns='jabber:client' xmlns:stream='urn:other'>" + sent + FOOTER
    again = Expat().read(stream)
    ours = "".join(stanzas(trees))
    if not again.accepted or again.trees != ours:
        return f"expat reads what we forward otherwise: {sent!r}\n ours  {ours!r}\n expat {again.trees!r}"
    root = etree.fromstring(stream)
    other = "".join(tree_of(child) for child in root)
    if other != ours:
        return f"libxml2 reads what we forward otherwise: {sent!r}\n ours    {ours!r}\n libxml2 {other!r}"
    return None


def stanzas(trees: str) -> list[str]:
    """The first-level trees that are stanzas."""
    found: list[str] = []
    depth = begin = 0
    for at, c in enumerate(trees):
        if c == "\x01":
            begin = at if depth == 0 else begin
            depth += 1
        elif c == "\x05":
            depth -= 1
            if depth == 0:
                found.append(trees[begin : at + 1])
    return [tree for tree in found if STANZA.match(tree)]


@pytest.mark.slow
def test_the_reader_and_expat_agree_on_generated_and_mutated_streams(judge: Path) -> None:
    documents = Documents(SEED)
    batch = [documents.next() for _ in range(COUNT)]
    differences: list[str] = []
    verdicts: dict[str, int] = {}
    for document, result in zip(batch, run(judge, batch), strict=True):
        verdicts[result[0]] = verdicts.get(result[0], 0) + 1
        if found := difference(document, *result):
            differences.append(f"{document!r}\n {found}")
    print(verdicts)
    assert not differences, f"{len(differences)} differences:\n" + "\n".join(differences[:10])
    # The documents are of use only while both outcomes and each kind of error are frequent.
    assert verdicts["+"] > COUNT // 5
    assert all(
        verdicts.get(name, 0) > COUNT // 500
        for name in ("NotWellFormed", "Restricted", "Encoding", "BadFormat")
    )
    assert verdicts.get('Limit("name")', 0) > COUNT // 2000
