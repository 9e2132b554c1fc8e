# SPDX-License-Identifier: Apache-2.0
"""Hostile XML at every door: TCP before TLS, before login and after, WebSocket, component.

The cases are 1 to 6 of the list in README.md. Each door must answer with a stream error and close,
keep its memory flat and leave two bystanders alone.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from lxml import etree

from support import ns
from support.client import Client
from support.component import Component
from support.hostile import Bystanders, header, opened, resident_kb, settled_kb
from support.play import Clients
from support.server import Server
from support.transport import WebSocketTransport
from support.xml import Element, message, parse

pytestmark = pytest.mark.ours("Prosody answers some of it otherwise")

DOORS = ("clear", "tls", "bound", "direct", "wss", "wss bound", "component", "component bound")
BEFORE_LOGIN = ("clear", "tls", "direct", "wss", "component")
XML_ERRORS = ("restricted-xml", "not-well-formed", "bad-format", "invalid-xml")
HEADROOM_KB = 12_288
"""What the allocator may keep of what it had to hand out once."""


async def enter(door: str, clients: Clients, server: Server) -> Client:
    """A client inside that door, its stream open."""
    if door.startswith("component"):
        component = Component(server)
        clients.made.append(component)
        if door.endswith("bound"):
            return await component.login()
        await component.connect()
        await component.open_stream()
        return component
    if door == "clear":
        return await opened(clients.raw())
    if door.endswith("bound"):
        return await clients.bound(kind="wss" if door.startswith("wss") else "starttls")
    return await clients.stream({"tls": "starttls"}.get(door, door))


async def is_refused(client: Client, *conditions: str) -> None:
    """The stream ends with one of these and the connection with it."""
    await client.expect_stream_error(*conditions)
    await client.expect_eof()


# -- 1: declarations and entities ----------------------------------------------------------------

LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'lol'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{('&' + chr(97 + i) + ';') * 10}'>" for i in range(9))
    + "]>"
)
DECLARED = {
    "billion laughs": (LAUGHS, "&j;"),
    "quadratic blow-up": (f"<!DOCTYPE l [<!ENTITY a '{'x' * 3000}'>]>", "&a;" * 1000),
    "external entity": ("<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>", "&a;"),
    "parameter entity": ("<!DOCTYPE l [<!ENTITY % a SYSTEM 'http://127.0.0.1:1/'> %a;]>", ""),
    "external subset": ("<!DOCTYPE l SYSTEM 'http://127.0.0.1:1/'>", ""),
    "default attribute": ("<!DOCTYPE l [<!ATTLIST message to CDATA 'x@y'>]>", ""),
    "undeclared entity": ("", "&nbsp;"),
}


@pytest.mark.parametrize("door", DOORS)
async def test_declarations_and_entities_are_refused_at_every_door(
    clients: Clients, server: Server, door: str
) -> None:
    # CVE-2022-0217 was a second XML loader that nobody had thought of
    before = 0
    async with Bystanders(clients):
        for declaration, use in DECLARED.values():
            client = await enter(door, clients, server)
            before = before or resident_kb(server)
            client.send_raw(
                f"{declaration}<message xmlns='{ns.CLIENT}'><body>{use}</body></message>"
            )
            await is_refused(client, *XML_ERRORS)
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


@pytest.mark.parametrize("port", ["c2s", "plain", "component"])
@pytest.mark.parametrize("name", [n for n in DECLARED if n != "undeclared entity"])
async def test_declarations_before_the_header_are_refused_on_every_port(
    clients: Clients, server: Server, port: str, name: str
) -> None:
    if port == "component":
        client: Client = Component(server)
        clients.made.append(client)
    else:
        client = clients.raw("plain" if port == "plain" else "starttls")
    await client.connect()
    content = ns.COMPONENT if port == "component" else ns.CLIENT
    client.send_raw("<?xml version='1.0'?>" + DECLARED[name][0] + header(client.host, content))
    await is_refused(client, *XML_ERRORS)


# -- 3: much of everything, before login ---------------------------------------------------------

AMPLE = {
    "depth": "<a>" * 100_000,
    "elements": "<a>" + "<b/>" * 50_000,
    "elements in few bytes": "<a>" + "<b/>" * 300,
    "attributes": "<a " + " ".join(f"b{i}=''" for i in range(20_000)) + "/>",
    "namespaces": "<a " + " ".join(f"xmlns:b{i}='c'" for i in range(20_000)) + "/>",
    "attribute": f"<a b='{'x' * 300_000}",
    "text": f"<a>{'x' * 300_000}",
    "name": f"<{'a' * 300_000}",
    "references": "<a>" + "&#65;" * 60_000,
    "whitespace in a tag": "<a" + " " * 300_000,
}


@pytest.mark.parametrize("door", BEFORE_LOGIN)
async def test_nobody_gets_much_parsed_before_login(
    clients: Clients, server: Server, door: str
) -> None:
    # CVE-2026-43507
    before = 0
    async with Bystanders(clients):
        for text in AMPLE.values():
            client = await enter(door, clients, server)
            before = before or resident_kb(server)
            began = time.monotonic()
            client.send_raw(text)
            if door == "wss":
                await client.expect_end()  # a message of that size is not even read to its end
            else:
                await client.expect_stream_error(
                    "policy-violation", "not-authorized", "unsupported-stanza-type", *XML_ERRORS
                )
            assert time.monotonic() - began < 3
            await client.expect_eof()
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


@pytest.mark.parametrize("shape", ["<a>", "<a b='c'>", "<a xmlns='b'>", "<a/>"])
async def test_what_is_unfinished_before_login_costs_little(
    clients: Clients, server: Server, shape: str
) -> None:
    # what a parser makes of 9,000 bytes must stay within a small multiple of them
    count, depth = 100, 60
    body = "<auth>" + shape * (depth if shape != "<a/>" else 250)
    waiting = [await opened(clients.raw()) for _ in range(count)]
    before = resident_kb(server)
    for client in waiting:
        client.send_raw(body)
    async with Bystanders(clients):
        await asyncio.sleep(0.5)
        grown = resident_kb(server) - before
    assert grown < 128 * count, f"{grown / count:.0f} KB for each"
    for client in waiting:
        client.abort()
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


AFTER_LOGIN = {
    "children": "<message>" + "<a/>" * 1_000,
    "deep children": "<message><x>" + "<a/>" * 24_900,
    "namespaces": "<message>" + "".join(f"<a xmlns='urn:{i}'/>" for i in range(1_000)),
    "attributes": "<message><x>" + ("<a " + " ".join(f"a{i}=''" for i in range(90)) + "/>") * 300,
    "text": "<message><body>" + "x" * 260_000,
    "no stanza": "<x xmlns='urn:x'>" + "<a/>" * 255,
}


@pytest.mark.parametrize("text", AFTER_LOGIN.values(), ids=AFTER_LOGIN)
async def test_what_is_unfinished_after_login_holds_little_more_than_its_bytes(
    clients: Clients, server: Server, text: str
) -> None:
    count = 30
    hostile = [await clients.bound(kind="direct") for _ in range(count)]
    before = resident_kb(server)
    async with Bystanders(clients):
        for client in hostile:
            client.send_raw(text)
        await asyncio.sleep(1)
        grown = resident_kb(server) - before
    assert grown < count * (len(text) / 1024 + 180) + 4_096, f"{grown / count:.0f} KB for each"
    for client in hostile:
        client.abort()
    assert await settled_kb(server, before + HEADROOM_KB) < before + HEADROOM_KB


@pytest.mark.parametrize("root", ["message", "x xmlns='urn:x'"])
async def test_more_children_than_anything_has_end_the_stream(clients: Clients, root: str) -> None:
    client = await clients.bound()
    client.send_raw(f"<{root}>" + "<a xmlns='urn:a'/>" * 1_001)
    await client.expect_stream_error("policy-violation")
    await client.expect_eof()


@pytest.mark.settings(limits={"login_seconds": 3})
async def test_one_byte_a_second_does_not_hold_a_connection(
    clients: Clients, server: Server
) -> None:
    # the time to log in is one time for all of it, however alive the client seems
    async with Bystanders(clients):
        slow = [clients.raw(kind) for kind in ("starttls", "plain", "direct", "starttls")]
        for client in slow:
            await client.connect()
        await slow[-1].open_stream()
        text = header(server.domain)
        began = time.monotonic()
        for byte in text:
            for client in slow:
                if not client.eof:
                    client.send_raw(byte)
            if all(client.eof for client in slow):
                break
            await asyncio.sleep(0.5)
        assert time.monotonic() - began < 12, "they may stay for 3 seconds and the checks between"


# -- 5: invalid UTF-8 across borders -------------------------------------------------------------

INVALID = {
    "overlong slash": b"\xc0\xaf",
    "overlong less-than": b"\xc0\xbc",
    "overlong in three": b"\xe0\x80\xbc",
    "overlong in four": b"\xf0\x80\x80\xbc",
    "high surrogate": b"\xed\xa0\xbd",
    "surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "lone continuation": b"\xbf",
    "cut before a tag": b"\xf0\x9f\x98",
    "FE": b"\xfe",
    "noncharacter": b"\xef\xbf\xbf",
}


@pytest.mark.parametrize("octets", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("door", ["bound", "component bound"])
async def test_invalid_utf8_is_refused_wherever_it_is_torn(
    clients: Clients, server: Server, juliet: Client, door: str, octets: bytes
) -> None:
    # "stanza smuggling": each write is one TLS record, each border falls inside the character
    for at in range(len(octets)):
        client = await enter(door, clients, server)
        to, sender = juliet.jid.encode(), b""
        if isinstance(client, Component):
            sender = b" from='" + client.host.encode() + b"'"
        client.send_raw(b"<message to='" + to + b"'" + sender + b"><body>" + octets[:at])
        await asyncio.sleep(0.01)
        client.send_raw(octets[at:] + b"</body></message>")
        await is_refused(client, *XML_ERRORS, "unsupported-encoding")
    await juliet.expect_nothing("message", within_s=0.02)


@pytest.mark.parametrize("octets", INVALID.values(), ids=INVALID)
async def test_invalid_utf8_in_a_websocket_message_is_refused(
    clients: Clients, juliet: Client, octets: bytes
) -> None:
    # RFC 6455 §8.1: the connection fails; a noncharacter is UTF-8 and for the XML reader
    client = await clients.bound(kind="wss")
    transport = client.transport
    assert isinstance(transport, WebSocketTransport)
    text = f"<message xmlns='{ns.CLIENT}' to='{juliet.jid}'><body>".encode()
    await transport._socket.send(text + octets + b"</body></message>", text=True)
    await client.expect_eof()
    await juliet.expect_nothing("message", within_s=0.02)


# -- 5 and 6: what is forwarded is one stanza, and the same to every reader --------------------------

STRANGE = {
    "stream element inside": f"<stream xmlns='{ns.STREAM}' to='x'/>",
    "stream error inside": f"<error xmlns='{ns.STREAM}'><conflict xmlns='{ns.STREAMS}'/></error>",
    "features inside": f"<s:features xmlns:s='{ns.STREAM}'><a xmlns='b'/></s:features>",
    "prefix stream for another": "<stream:x xmlns:stream='urn:other' stream:y='z'/>",
    "server namespace": f"<message xmlns='{ns.SERVER}' to='x@y'><body>z</body></message>",
    "stanza inside": "<x xmlns='urn:x'><message xmlns='jabber:client' to='a@b'/></x>",
    "no namespace": "<x xmlns=''><y/></x>",
    "namespace taken back and given": "<x xmlns='urn:x'><y xmlns=''><z xmlns='urn:x'/></y></x>",
    "prefix given twice": "<a:x xmlns:a='urn:1'><a:x xmlns:a='urn:2'/><a:y/></a:x>",
    "one namespace by two prefixes": "<a:x xmlns:a='urn:1' xmlns:b='urn:1'><b:y b:c='d'/></a:x>",
    "namespace with an ampersand": "<x xmlns='urn:a?b=c&amp;amp;d=(e)*!$,;'/>",
    "prefix beyond ASCII": "<ä:x xmlns:ä='urn:a' ä:é='ö'/>",
    "quotes in an attribute": "<x xmlns='urn:x' y='&quot;&apos;&gt;&lt;&amp;' z=\"'\"/>",
    "blanks in an attribute": "<x xmlns='urn:x' y='a&#9;b&#10;c&#13;d  e'/>",
    "blanks as they are": "<x xmlns='urn:x' y='a\tb\nc'>\t\n</x>",
    "carriage returns": "<x xmlns='urn:x'>a\r\nb\rc&#13;d</x>",
    "end of a section": "<x xmlns='urn:x'>]]&gt;<![CDATA[</x><!-- ]]>]]&gt;</x>",
    "tags in a section": "<x xmlns='urn:x'><![CDATA[</stream:stream><message to='a'/>]]></x>",
    "sections in a row": "<x xmlns='urn:x'><![CDATA[]]><![CDATA[&amp;]]>&amp;</x>",
    "beyond the basic plane": "<x xmlns='urn:x' y='&#x10FFFD;'>\U0001f600&#x1F600;</x>",
    "language": "<x xmlns='urn:x' xml:lang='de'><y xml:space='preserve'/></x>",
    "delete and C1 controls": "<x xmlns='urn:x'>\x7f&#x85;&#x9f;\u2028</x>",
}


def wrapped(octets: str) -> bytes:
    """What a receiver got, in a stream's context, as a document of its own."""
    return f"<d xmlns='{ns.CLIENT}' xmlns:stream='{ns.STREAM}'>{octets}</d>".encode()


def tree(node: etree._Element) -> tuple[object, ...]:
    """As `Element.canonical`, of libxml2's tree."""
    name = etree.QName(node)
    attrs = tuple(
        sorted((k.replace(f"{{{ns.XML}}}", "xml:"), v) for k, v in dict(node.attrib).items())
    )
    children: list[object] = [node.text] if node.text else []
    for child in node:
        children.append(tree(child))
        if child.tail:
            children.append(child.tail)
    return (name.namespace or "", name.localname, attrs, tuple(children))


@pytest.mark.parametrize("payload", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("kind", ["starttls", "wss"])
async def test_strange_payload_is_the_same_tree_to_every_reader(
    clients: Clients, kind: str, payload: str
) -> None:
    sender, receiver = await clients.online(), await clients.online(kind=kind)
    receiver.log.clear()
    sender.send_raw(f"<message to='{receiver.jid}' id='m'>{payload}</message>")
    got = await receiver.expect("message", id="m")
    sent = parse(f"<message xmlns='{ns.CLIENT}'>{payload}</message>")
    assert [c.canonical() for c in got] == [c.canonical() for c in sent]
    text = "".join(line.partition(" << ")[2] for _, line in receiver.log if " << " in line)
    root = etree.fromstring(wrapped(text), etree.XMLParser(resolve_entities=False))
    assert len(root) == 1, "more than one element arrived"
    assert tree(root[0]) == canonical(got)
    await receiver.sync()


def canonical(element: Element) -> tuple[object, ...]:
    """Its canonical form; the name is for the eye of who reads a failure."""
    return element.canonical()


BREAKING = {
    "closing the stream inside a stanza": "<message to='{to}'><body>a</stream:stream>",
    "closing a stanza that is not open": "</message>",
    "a stream inside the stream": "<stream:stream to='x' version='1.0'>",
    "a colon as a namespace separator": "<a:b:c xmlns:a='urn:a'/>",
    "a prefix without a name": "<stream: />",
    "the prefix stream taken back": "<message xmlns:stream='' to='{to}'/>",
    "a message of servers": "<message xmlns='jabber:server' to='{to}'><body>a</body></message>",
    "a message of components": (
        "<message xmlns='jabber:component:accept' to='{to}'><body>a</body></message>"
    ),
    # CVE-2022-25236: some readers join a namespace and a name by a character
    "a namespace with separators": "<message to='{to}'><x xmlns='urn:a b&#10;c|d'/></message>",
    "a namespace with a brace": "<message to='{to}'><x xmlns='urn:a}}b'/></message>",
    "a namespace with markup": "<message to='{to}'><x xmlns='urn:&lt;/x&gt;'/></message>",
    "two to": "<message to='{to}' to='x@y'><body>a</body></message>",
}


@pytest.mark.parametrize("text", BREAKING.values(), ids=BREAKING)
async def test_what_breaks_out_of_a_stanza_ends_the_stream_and_reaches_nobody(
    clients: Clients, juliet: Client, text: str
) -> None:
    client = await clients.online()
    client.send_raw(text.format(to=juliet.jid))
    client.send(message(juliet.jid, "behind it"))
    await client.expect_end()
    await juliet.expect_nothing("message", within_s=0.05)
