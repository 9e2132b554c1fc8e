# SPDX-License-Identifier: Apache-2.0
"""RFC 6120: streams, STARTTLS, stream errors, restricted XML, and the attacks upon them.

The attack numbers are those of the project's list of attack cases (1-6 and 8).
"""

from __future__ import annotations

import asyncio
import time

import pytest

from support import ns
from support.client import Client, StreamClosed
from support.play import Clients
from support.sasl import Scram
from support.server import Server
from support.xml import E, message

HEADER = (
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "to='{to}' version='1.0'>"
)


async def opened(clients: Clients) -> Client:
    """A client with an open stream in clear, before STARTTLS."""
    client = clients.raw()
    await client.connect()
    await client.open_stream()
    return client


# -- stream headers (RFC 6120 §4.7) ------------------------------------------


async def test_response_header_names_the_server_and_an_id(clients: Clients) -> None:
    client = await opened(clients)
    header = client.header
    assert header is not None
    assert header.tag == ("stream", ns.STREAM)
    assert (header.frm, header.get("version")) == (client.host, "1.0")
    assert len(header.id or "") >= 16


async def test_response_header_carries_a_language(clients: Clients) -> None:
    # RFC 6120 §4.7.4: the response header should have an xml:lang
    client = await opened(clients)
    assert client.header is not None
    assert client.header.get("xml:lang")


async def test_every_restart_has_a_new_stream_id(clients: Clients) -> None:
    # RFC 6120 §4.7.3 and §4.3.3
    client = await clients.bound()
    ids = [h.id for h in client.headers]
    assert len(ids) == 3
    assert len(set(ids)) == 3


async def test_xml_declaration_is_optional(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw(HEADER.format(to=client.host))
    assert (await client.next()).tag == ("features", ns.STREAM)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_header_in_small_pieces_is_read(clients: Clients, size: int) -> None:
    client = clients.raw()
    await client.connect()
    text = "<?xml version='1.0' encoding='UTF-8'?>" + HEADER.format(to=client.host)
    for i in range(0, len(text), size):
        client.send_raw(text[i : i + size])
        if i % 20 == 0:
            await asyncio.sleep(0)
    assert (await client.next()).tag == ("features", ns.STREAM)


async def test_unknown_host_gets_host_unknown_behind_a_header(clients: Clients) -> None:
    # RFC 6120 §4.9.3.6, example; §4.9.1.2: a header comes first
    client = clients.raw()
    await client.connect()
    client.open_header(to="unknown.invalid")
    await client.expect_stream_error("host-unknown")
    assert client.header is not None
    assert client.header.id


async def test_missing_to_gets_host_unknown(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.open_header(to=None)
    await client.expect_stream_error("host-unknown", "improper-addressing")


async def test_malformed_to_is_a_stream_error(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.open_header(to="@@/")
    await client.expect_stream_error("host-unknown", "improper-addressing")


async def test_domain_is_compared_without_case(clients: Clients) -> None:
    # RFC 7622 §3.2: the domainpart is lower-cased before comparison
    client = clients.raw()
    await client.connect()
    await client.open_stream(to=client.host.upper())
    assert client.header is not None
    assert client.header.frm == client.host


async def test_wrong_stream_namespace_is_invalid_namespace(clients: Clients) -> None:
    # RFC 6120 §4.9.3.10, example
    client = clients.raw()
    await client.connect()
    client.send_raw(
        f"<stream:stream xmlns='jabber:client' xmlns:stream='http://wrong.namespace.example.org/' "
        f"to='{client.host}' version='1.0'>"
    )
    await client.expect_stream_error("invalid-namespace")


@pytest.mark.deviates(prosody="closes without a word")
async def test_wrong_content_namespace_is_invalid_namespace(clients: Clients) -> None:
    # RFC 6120 §4.8.2 and §4.9.3.10
    client = clients.raw()
    await client.connect()
    client.send_raw(
        f"<stream:stream xmlns='jabber:foo' xmlns:stream='{ns.STREAM}' "
        f"to='{client.host}' version='1.0'>"
    )
    await client.expect_stream_error("invalid-namespace")


@pytest.mark.deviates(prosody="takes any prefix")
async def test_wrong_prefix_is_bad_namespace_prefix(clients: Clients) -> None:
    # RFC 6120 §4.9.3.2, example
    client = clients.raw()
    await client.connect()
    client.send_raw(
        f"<foobar:stream xmlns='jabber:client' xmlns:foobar='{ns.STREAM}' "
        f"to='{client.host}' version='1.0'>"
    )
    await client.expect_stream_error("bad-namespace-prefix")


async def test_other_root_element_is_a_stream_error(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw(f"<stream:foo xmlns='jabber:client' xmlns:stream='{ns.STREAM}' to='x'>")
    await client.expect_stream_error(
        "bad-format", "invalid-xml", "invalid-namespace", "not-well-formed"
    )


async def test_http_request_is_refused(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw("GET / HTTP/1.1\r\nHost: example\r\n\r\n")
    await client.expect_end()


@pytest.mark.deviates(prosody="takes any version from 1.0 up and a missing one")
async def test_version_of_future_is_answered_with_ours(clients: Clients) -> None:
    # RFC 6120 §4.7.5: the lower of the two versions
    client = clients.raw()
    await client.connect()
    await client.open_stream(version="11.9")
    assert client.header is not None
    assert client.header.get("version") == "1.0"


@pytest.mark.deviates(prosody="serves legacy authentication to such a stream")
async def test_missing_version_gets_no_features(clients: Clients) -> None:
    # RFC 6120 §4.7.5: no version is 0.9, which is served no features; we refuse it
    client = clients.raw()
    await client.connect()
    client.open_header(version=None)
    await client.expect_stream_error("unsupported-version")


@pytest.mark.deviates(prosody="does not judge the version")
@pytest.mark.parametrize("version", ["abc", "0.9", "-1.0", "1", ""])
async def test_unusable_version_is_unsupported_version(clients: Clients, version: str) -> None:
    client = clients.raw()
    await client.connect()
    client.open_header(version=version)
    await client.expect_stream_error("unsupported-version")


async def test_second_header_inside_a_stream_is_refused(romeo: Client) -> None:
    # attack 2; RFC 6120 §4.9.3.1: a stream inside a stream cannot be processed
    romeo.send_raw(HEADER.format(to=romeo.host))
    romeo.send_raw("</stream:stream>")
    await romeo.expect_stream_error(
        "bad-format", "invalid-xml", "not-well-formed", "unsupported-stanza-type"
    )


async def test_closing_tag_is_answered_with_ours(romeo: Client) -> None:
    # RFC 6120 §4.4
    romeo.send_raw("</stream:stream>")
    await romeo.expect_end()
    assert romeo.closed_stream
    await romeo.expect_eof()


async def test_stanzas_before_the_closing_tag_are_handled(romeo: Client, juliet: Client) -> None:
    romeo.send_raw(message(juliet.jid, "last words").xml(ns.CLIENT) + "</stream:stream>")
    assert (await juliet.expect("message")).body == "last words"


async def test_nothing_behind_the_closing_tag_is_handled(romeo: Client, juliet: Client) -> None:
    # RFC 6120 §4.4: no data may follow the closing tag
    romeo.send_raw("</stream:stream>" + message(juliet.jid, "ghost").xml(ns.CLIENT))
    await romeo.expect_end()
    await juliet.expect_nothing("message")


async def test_whitespace_between_stanzas_is_a_keepalive(romeo: Client) -> None:
    # RFC 6120 §4.6.1
    romeo.send_raw(" \n\t\r ")
    await romeo.sync()


# -- STARTTLS (RFC 6120 §5) -----------------------------------------------------


async def test_only_starttls_is_offered_in_clear(clients: Clients) -> None:
    # RFC 6120 §5.3.1: a server that requires TLS offers nothing else
    client = await opened(clients)
    assert [f.tag for f in client.features] == [("starttls", ns.TLS)]
    assert client.features.at(("starttls", ns.TLS)).has("required")


async def test_starttls_is_not_offered_again_inside_tls(clients: Clients) -> None:
    client = await clients.stream()
    assert not client.features.has("starttls", ns.TLS)


async def test_starttls_inside_tls_fails(clients: Clients) -> None:
    # RFC 6120 §5.4.2.2 or a stream error; never a second TLS
    client = await clients.stream()
    client.send(E("starttls", ns.TLS))
    answer = await client.next()
    assert answer.tag != ("proceed", ns.TLS)
    assert answer.tag in (("failure", ns.TLS), ("error", ns.STREAM))


async def test_authentication_before_required_tls_is_refused(clients: Clients) -> None:
    # attack 8; RFC 6120 §6.5.4 encryption-required, or the stream ends
    client = clients.raw(account=clients.server.account())
    await client.connect()
    await client.open_stream()
    client.send(E("auth", ns.SASL, "AHJvbWVvAHB3", mechanism="PLAIN"))
    answer = await client.next()
    assert answer.name in ("failure", "error")
    assert answer.condition in (
        "encryption-required",
        "invalid-mechanism",
        "policy-violation",
        "not-authorized",
    )


@pytest.mark.deviates(prosody="answers them in clear and then fails the handshake")
async def test_bytes_behind_starttls_are_never_parsed(clients: Clients) -> None:
    # attack 8: STARTTLS injection; RFC 6120 §5.4.3.3 (and CVE-2011-0411 of other protocols).
    # The bytes in clear would be the first stanza of the secured stream.
    client = clients.raw(account=clients.server.account())
    await client.connect()
    await client.open_stream()
    client.send_raw(f"<starttls xmlns='{ns.TLS}'/>" + HEADER.format(to=client.host))
    try:
        await client.expect("proceed")
        await client.handshake()
    except (StreamClosed, OSError):
        return  # refusing such a client outright is as good
    header = client.headers[-1]
    await asyncio.sleep(0.2)
    assert client.headers[-1] is header, "the injected header was answered inside TLS"
    await client.open_stream()
    assert client.mechanisms


async def test_features_are_not_replayed_across_tls(clients: Clients) -> None:
    client = await clients.stream()
    assert client.features.has("mechanisms", ns.SASL)
    assert len(client.headers) == 2


async def test_garbage_instead_of_a_handshake_ends_the_connection(clients: Clients) -> None:
    client = await opened(clients)
    client.send(E("starttls", ns.TLS))
    await client.expect("proceed")
    client.send_raw(b"this is not a ClientHello at all, not even close\r\n\r\n" * 4)
    await client.expect_eof()


# -- what may come before authentication ----------------------------------------


@pytest.mark.deviates(prosody="answers with a stanza error")
@pytest.mark.parametrize(
    "stanza",
    [
        "<message to='x@{host}'><body>hi</body></message>",
        "<presence/>",
        "<iq type='get' id='1' to='{host}'><query xmlns='jabber:iq:version'/></iq>",
    ],
)
async def test_stanza_before_authentication_is_not_authorized(
    clients: Clients, stanza: str
) -> None:
    # RFC 6120 §4.9.3.12, example
    client = await clients.stream()
    client.send_raw(stanza.format(host=client.host))
    await client.expect_stream_error("not-authorized")


@pytest.mark.deviates(prosody="answers with a stanza error")
async def test_stanza_before_tls_is_not_authorized(clients: Clients) -> None:
    client = await opened(clients)
    client.send_raw(f"<message to='x@{client.host}'><body>hi</body></message>")
    await client.expect_stream_error("not-authorized", "policy-violation")


async def test_stanza_before_the_stream_is_refused(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw(f"<message xmlns='jabber:client' to='x@{client.host}'/>")
    await client.expect_stream_error(
        "invalid-namespace", "bad-format", "invalid-xml", "not-authorized", "bad-namespace-prefix"
    )


@pytest.mark.ours("limits before login have our names")
@pytest.mark.settings(limits={"login_seconds": 1})
async def test_silent_connection_is_closed_before_login(clients: Clients) -> None:
    client = await opened(clients)
    await client.expect_end(timeout_s=5)
    await client.expect_eof()


# -- stream errors after authentication (RFC 6120 §4.9.3) --------------------------


async def test_unknown_first_level_element_is_unsupported_stanza_type(romeo: Client) -> None:
    # RFC 6120 §4.9.3.24, example
    romeo.send_raw("<pubsub xmlns='jabber:client'><item id='1'/></pubsub>")
    await romeo.expect_stream_error("unsupported-stanza-type")


async def test_foreign_first_level_element_is_unsupported_stanza_type(romeo: Client) -> None:
    romeo.send_raw("<foo xmlns='urn:example:foo'/>")
    await romeo.expect_stream_error("unsupported-stanza-type")


@pytest.mark.deviates(prosody="drops such a stanza's namespace silently")
async def test_server_namespace_on_a_client_stream_is_refused(romeo: Client) -> None:
    # attack 6
    romeo.send_raw(f"<message xmlns='jabber:server' to='{romeo.bare}'><body>x</body></message>")
    await romeo.expect_stream_error("invalid-namespace", "unsupported-stanza-type")


@pytest.mark.deviates(prosody="swallows it")
async def test_text_between_stanzas_is_a_stream_error(romeo: Client) -> None:
    romeo.send_raw("naked text")
    await romeo.expect_stream_error("bad-format", "invalid-xml", "not-well-formed")


@pytest.mark.deviates(prosody="overwrites the address")
async def test_forged_from_is_invalid_from(romeo: Client, juliet: Client) -> None:
    # RFC 6120 §8.1.2.1 and §4.9.3.9; attack 13
    romeo.send(message(romeo.jid, "x", from_=juliet.jid))
    await romeo.expect_stream_error("invalid-from")


@pytest.mark.deviates(prosody="overwrites a foreign resource of the own account")
async def test_from_with_another_resource_of_ours_is_invalid_from(romeo: Client) -> None:
    romeo.send(message(romeo.jid, "x", from_=f"{romeo.bare}/other"))
    await romeo.expect_stream_error("invalid-from")


async def test_own_full_and_bare_from_are_accepted_and_stamped(
    romeo: Client, juliet: Client
) -> None:
    # RFC 6120 §8.1.2.1: the full JID is stamped in any case
    for address in (romeo.jid, romeo.bare, None):
        romeo.send(message(juliet.jid, "x", from_=address))
        assert (await juliet.expect("message")).frm == romeo.jid


@pytest.mark.parametrize(
    "octets",
    [
        b"<message><body>\xc0\xaf</body></message>",  # overlong
        b"<message><body>\xed\xa0\x80</body></message>",  # surrogate
        b"<message><body>\xf5\x80\x80\x80</body></message>",  # above U+10FFFF
        b"<message><body>\xe2\x82</body></message>",  # truncated
        b"<message><body>\x80</body></message>",  # lone continuation
    ],
    ids=["overlong", "surrogate", "beyond", "truncated", "continuation"],
)
async def test_invalid_utf8_is_a_stream_error(romeo: Client, octets: bytes) -> None:
    # attack 5; RFC 6120 §11.6 and §4.9.3.13 / §4.9.3.22
    romeo.send_raw(octets)
    await romeo.expect_stream_error("not-well-formed", "bad-format", "unsupported-encoding")


async def test_utf8_split_across_writes_arrives_whole(romeo: Client, juliet: Client) -> None:
    # attack 5: across buffer and TLS record borders
    text = "zażółć 💬 𝄞 𠮷"
    octets = message(juliet.jid, text).xml(ns.CLIENT).encode()
    for i in range(len(octets)):
        romeo.send_raw(octets[i : i + 1])
        if i % 10 == 0:
            await asyncio.sleep(0)
    assert (await juliet.expect("message")).body == text


@pytest.mark.deviates(prosody="its parser does not look at the declared encoding first")
@pytest.mark.parametrize("encoding", ["UTF-16", "ISO-8859-1"])
async def test_other_encoding_is_unsupported_encoding(clients: Clients, encoding: str) -> None:
    # RFC 6120 §4.9.3.22
    client = clients.raw()
    await client.connect()
    client.send_raw(f"<?xml version='1.0' encoding='{encoding}'?>" + HEADER.format(to=client.host))
    await client.expect_stream_error("unsupported-encoding", "not-well-formed")


@pytest.mark.deviates(prosody="answers not-well-formed")
async def test_utf16_stream_is_unsupported_encoding(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw(("\ufeff" + HEADER.format(to=client.host)).encode("utf-16-le"))
    await client.expect_stream_error("unsupported-encoding")


# -- XML (RFC 6120 §11; attacks 1, 2, 5, 6) -----------------------------------------

RESTRICTED = {
    "comment": "<message><!-- c --><body>x</body></message>",
    "comment between stanzas": "<!-- c -->",
    "processing instruction": "<message><?foo bar?><body>x</body></message>",
    "processing instruction between stanzas": "<?foo bar?>",
    "doctype": "<!DOCTYPE foo>",
    "unknown entity": "<message><body>&nbsp;</body></message>",
    "unknown entity in an attribute": "<message id='&foo;'/>",
}
BROKEN = {
    "mismatched tags": "<message><body>No closing tag!</message>",
    "no quotes": "<message to=x/>",
    "duplicate attribute": "<message id='1' id='2'/>",
    "two from": "<message from='a@b' from='c@d'/>",
    "same attribute by two prefixes": (
        "<message xmlns:a='urn:x' xmlns:b='urn:x' a:y='1' b:y='2'/>"
    ),
    "undeclared prefix": "<message><foo:bar/></message>",
    "undeclared attribute prefix": "<message foo:bar='1'/>",
    "prefix undeclared": "<message xmlns:a=''/>",
    "xml prefix rebound": "<message xmlns:xml='urn:x'/>",
    "xmlns prefix bound": "<message xmlns:xmlns='urn:x'/>",
    "NUL reference": "<message><body>&#0;</body></message>",
    "control reference": "<message><body>&#x1;</body></message>",
    "surrogate reference": "<message><body>&#xD800;</body></message>",
    "noncharacter reference": "<message><body>&#xFFFE;</body></message>",
    "raw control": "<message><body>\x01</body></message>",
    "raw NUL": "<message><body>\x00</body></message>",
    "noncharacter": "<message><body>\ufffe</body></message>",
    "less-than in an attribute": "<message id='<'/>",
    "cdata end in text": "<message><body>]]></body></message>",
    "name that starts with a digit": "<message><1a/></message>",
    "no space between attributes": "<message id='1'to='x'/>",
    "bare ampersand": "<message><body>a & b</body></message>",
    "declaration in the middle": "<?xml version='1.0'?>",
    "attribute on a closing tag": "<message></message a='b'>",
    "colon name": "<message><a:b:c xmlns:a='urn:x'/></message>",
}


@pytest.mark.parametrize("text", RESTRICTED.values(), ids=RESTRICTED.keys())
async def test_restricted_xml_ends_the_stream(romeo: Client, text: str) -> None:
    # RFC 6120 §11.1 and §4.9.3.18
    romeo.send_raw(text)
    await romeo.expect_stream_error("restricted-xml", "not-well-formed")


@pytest.mark.ours("Prosody's expat calls some of them not-well-formed, which the RFC allows")
@pytest.mark.parametrize("text", RESTRICTED.values(), ids=RESTRICTED.keys())
async def test_restricted_xml_is_called_by_its_name(romeo: Client, text: str) -> None:
    romeo.send_raw(text)
    await romeo.expect_stream_error("restricted-xml")


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_not_well_formed_ends_the_stream(romeo: Client, text: str) -> None:
    # RFC 6120 §11.3 and §4.9.3.13
    romeo.send_raw(text)
    await romeo.expect_stream_error(
        "not-well-formed", "bad-format", "restricted-xml", "invalid-xml"
    )


BILLION_LAUGHS = (
    "<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY a 'lol'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{('&' + chr(97 + i) + ';') * 10}'>" for i in range(10))
    + "]>"
)
DOCUMENTS = {
    "doctype": "<?xml version='1.0'?><!DOCTYPE stream SYSTEM 'http://127.0.0.1:1/x.dtd'>",
    "billion laughs": BILLION_LAUGHS,
    "external entity": "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
    "quadratic blow-up": f"<!DOCTYPE a [<!ENTITY x '{'A' * 4000}'>]>",
    "comment": "<!-- first -->",
    "processing instruction": "<?php echo 1 ?>",
}


@pytest.mark.parametrize("text", DOCUMENTS.values(), ids=DOCUMENTS.keys())
async def test_prologue_with_declarations_is_refused(clients: Clients, text: str) -> None:
    # attack 1
    client = clients.raw()
    await client.connect()
    client.send_raw(text + HEADER.format(to=client.host))
    await client.expect_stream_error("restricted-xml", "not-well-formed", "bad-format")


async def test_cdata_is_legal(romeo: Client, juliet: Client) -> None:
    # attack 2: CDATA kept legal (RFC 6120 §11.1 does not restrict it)
    romeo.send_raw(f"<message to='{juliet.jid}'><body><![CDATA[<b>&amp;]]></body></message>")
    assert (await juliet.expect("message")).body == "<b>&amp;"


async def test_character_references_and_predefined_entities_are_legal(
    romeo: Client, juliet: Client
) -> None:
    romeo.send_raw(
        f"<message to='{juliet.jid}'><body>&lt;&gt;&amp;&apos;&quot;&#65;&#x1F4AC;</body></message>"
    )
    assert (await juliet.expect("message")).body == "<>&'\"A\U0001f4ac"


@pytest.mark.deviates(prosody="writes line breaks of attributes raw")
async def test_payload_arrives_as_the_same_tree(romeo: Client, juliet: Client) -> None:
    # attacks 5 and 6: whatever is forwarded must parse to the same tree
    payload = (
        "<x xmlns='urn:a' xmlns:b='urn:b' b:c=\"it's\" d='&lt;&#10;&#9;&quot;'>"
        "<b:y><z xmlns=''/><y xmlns='jabber:client'/></b:y> tail &gt; "
        "<stream:stream xmlns:stream='urn:not-streams'/>"
        "<w xml:lang='pl' xml:space='preserve'> </w></x>"
    )
    romeo.send_raw(f"<message to='{juliet.jid}'>{payload}</message>")
    got = await juliet.expect("message")
    assert len(got) == 1
    x = got.at(("x", "urn:a"))
    assert (x.get("{urn:b}c"), x.get("d")) == ("it's", '<\n\t"')
    y = x.at(("y", "urn:b"))
    assert [c.tag for c in y] == [("z", ""), ("y", ns.CLIENT)]
    assert x.at(("stream", "urn:not-streams"))
    assert x.at("w").get("xml:lang") == "pl"
    assert x.children[1] == " tail > "


async def test_prefix_of_the_stream_header_is_bound_for_the_recipient(
    clients: Clients, juliet: Client
) -> None:
    # RFC 6120 §4.8.5: prefixes declared on the header; the recipient's header has none of them
    client = await clients.authenticated()
    await client.bind()
    client.send_raw(
        f"<message to='{juliet.jid}'><stream:features/><x xmlns='urn:a'><stream:y/></x></message>"
    )
    got = await juliet.expect("message")
    assert [c.tag for c in got] == [("features", ns.STREAM), ("x", "urn:a")]


async def test_header_declared_prefixes_travel_with_the_payload(
    clients: Clients, juliet: Client
) -> None:
    other = await clients.stream()
    await other.scram(_scram(other))
    other.restart()
    other.send_raw(
        f"<stream:stream xmlns='jabber:client' xmlns:stream='{ns.STREAM}' xmlns:q='urn:q' "
        f"xmlns:c='jabber:client' to='{other.host}' version='1.0'>"
    )
    await other.expect("features")
    await other.bind()
    other.send_raw(f"<message to='{juliet.jid}'><q:y q:z='1'><q:w/></q:y></message>")
    got = await juliet.expect("message")
    y = got.at(("y", "urn:q"))
    assert y.get("{urn:q}z") == "1"
    assert [c.tag for c in y] == [("w", "urn:q")]
    other.send_raw(f"<c:message to='{juliet.jid}'><c:body>prefixed</c:body></c:message>")
    assert (await juliet.expect("message")).body == "prefixed"


def _scram(client: Client) -> Scram:
    assert client.account is not None
    return Scram(client.choose(), client.account.user, client.account.password)


async def test_namespace_separator_in_a_prefix_smuggles_nothing(
    romeo: Client, juliet: Client
) -> None:
    # attack 5: CVE-2022-25236; the separators that readers use inside names
    for value in ("urn:a\ufdd0b", "urn:a&#10;b", "urn:a b|c"):
        romeo.send_raw(
            f"<message to='{juliet.jid}' id='1'><x xmlns='{value}' y='&gt;&lt;'/></message>"
        )
        try:
            got = await juliet.expect(lambda m: m.name in ("message", "error"), timeout_s=2)
        except AssertionError:
            break  # refusing the sender is as good
        assert len(got) == 1
        assert next(iter(got)).name == "x"


async def test_stream_language_is_stamped_on_stanzas(clients: Clients, juliet: Client) -> None:
    # RFC 6120 §8.1.5
    client = await clients.stream()
    await client.scram(_scram(client))
    await client.open_stream(xml_lang="pl")
    await client.bind()
    client.send(message(juliet.jid, "x", xml_lang="de"))
    assert (await juliet.expect("message")).get("xml:lang") == "de"
    client.send(message(juliet.jid, "x"))
    assert (await juliet.expect("message")).get("xml:lang") in (None, "pl")


# -- limits (attack 3; RFC 6120 §13.12) -------------------------------------------


async def test_stanza_of_ten_thousand_bytes_passes(romeo: Client, juliet: Client) -> None:
    # RFC 6120 §13.12: the limit must not be below 10000
    text = "x" * 9500
    romeo.send(message(juliet.jid, text))
    assert (await juliet.expect("message")).body == text


async def test_stanza_above_the_limit_is_policy_violation(romeo: Client) -> None:
    # contract: stanza_bytes = 262144
    romeo.send_raw(message(romeo.jid, "x" * 300_000).xml(ns.CLIENT))
    await romeo.expect_stream_error("policy-violation")


async def test_endless_stanza_is_stopped_at_the_limit(romeo: Client) -> None:
    # the limit is not measured only when the stanza is complete
    romeo.send_raw("<message><body>")
    for _ in range(40):
        if romeo.eof or romeo.closed_stream:
            break
        romeo.send_raw("y" * 16384)
        await asyncio.sleep(0.005)
    await romeo.expect_stream_error("policy-violation")


@pytest.mark.ours("limit before login")
@pytest.mark.parametrize("kind", ["starttls", "direct"])
async def test_stanza_above_the_limit_before_login_is_policy_violation(
    clients: Clients, kind: str
) -> None:
    # contract: stanza_bytes_before_login = 10000; CVE-2026-43507
    client = await clients.stream(kind)
    client.send_raw(f"<auth xmlns='{ns.SASL}' mechanism='PLAIN'>{'A' * 12000}</auth>")
    await client.expect_stream_error("policy-violation")


@pytest.mark.ours("limit before login")
async def test_endless_header_is_policy_violation(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    client.send_raw("<stream:stream xmlns='" + "j" * 20000)
    await client.expect_stream_error("policy-violation")


DEPTH = "<message>" + "<a>" * 100 + "</a>" * 100 + "</message>"
WIDE = "<message>" + "<a/>" * 26000 + "</message>"


@pytest.mark.ours("depth and element limits have our defaults")
@pytest.mark.parametrize("text", [DEPTH, WIDE], ids=["depth", "elements"])
async def test_too_many_elements_are_policy_violation(romeo: Client, text: str) -> None:
    romeo.send_raw(text)
    await romeo.expect_stream_error("policy-violation")


@pytest.mark.ours("attribute limits")
@pytest.mark.parametrize(
    "text",
    [
        "<message " + " ".join(f"a{i}='1'" for i in range(20000)) + "/>",
        "<message " + " ".join(f"xmlns:a{i}='urn:{i}'" for i in range(10000)) + "/>",
    ],
    ids=["attributes", "namespaces"],
)
async def test_hostile_tags_are_answered_quickly(romeo: Client, text: str) -> None:
    started = time.monotonic()
    romeo.send_raw(text)
    await romeo.expect_stream_error("policy-violation", "not-well-formed")
    assert time.monotonic() - started < 2


@pytest.mark.ours("names of elements are bounded")
async def test_long_name_is_refused_quickly(romeo: Client, juliet: Client) -> None:
    started = time.monotonic()
    romeo.send_raw(f"<message to='{juliet.jid}'><{'n' * 100_000}/></message>")
    await romeo.expect_stream_error("policy-violation")
    assert time.monotonic() - started < 2
    await juliet.sync()


@pytest.mark.parametrize("kind", ["starttls", "direct"])
async def test_deep_nesting_never_kills_the_server(
    clients: Clients, kind: str, juliet: Client
) -> None:
    # attack 3: depth of 100 000 before and after login
    client = await clients.bound(kind=kind)
    client.send_raw("<message>" + "<a>" * 100_000)
    await client.expect_end()
    await juliet.sync()


async def test_slow_byte_sender_does_not_stall_others(clients: Clients, juliet: Client) -> None:
    # attack 3: one byte at a time
    slow = clients.raw()
    await slow.connect()
    for byte in HEADER.format(to=slow.host)[:40]:
        slow.send_raw(byte)
        await juliet.sync()


@pytest.mark.parametrize("size", [1, 5])
async def test_stanzas_in_small_pieces_are_read(romeo: Client, juliet: Client, size: int) -> None:
    text = message(juliet.jid, "in pieces").xml(ns.CLIENT) * 3
    for i in range(0, len(text), size):
        romeo.send_raw(text[i : i + size])
        if i % 7 == 0:
            await asyncio.sleep(0)
    for _ in range(3):
        assert (await juliet.expect("message")).body == "in pieces"


async def test_many_connections_opened_and_dropped_leave_the_server_well(
    clients: Clients, juliet: Client
) -> None:
    # attack 4, in small
    for _ in range(20):
        batch = [clients.raw() for _ in range(10)]
        await asyncio.gather(*(c.connect() for c in batch))
        for c in batch:
            c.abort()
    await juliet.sync()


@pytest.mark.ours("connection limit")
@pytest.mark.settings(limits={"connections_per_address": 3})
async def test_connections_above_the_limit_of_an_address_are_refused(clients: Clients) -> None:
    kept = [await opened(clients) for _ in range(3)]
    extra = clients.raw()
    try:
        await extra.connect()
        extra.open_header()
    except OSError:
        pass
    else:
        await extra.expect_end()
    kept[0].abort()
    for _ in range(50):
        again = clients.raw()
        try:
            await again.connect()
            await again.open_stream()
            return
        except (AssertionError, OSError):
            await asyncio.sleep(0.05)
    pytest.fail("a closed connection did not make room")


# -- hosts --------------------------------------------------------------------------


async def test_each_domain_has_its_own_accounts(clients: Clients, server: Server) -> None:
    other = server.settings.domains[-1]
    here = await clients.online()
    there = await clients.online(server.account(other))
    assert there.jid.partition("/")[0].endswith(f"@{other}")
    here.send(message(there.jid, "across domains"))
    assert (await there.expect("message")).frm == here.jid


async def test_restart_for_another_domain_after_login_is_refused(
    clients: Clients, server: Server
) -> None:
    # attack 10: CVE-2018-10847
    client = await clients.stream()
    await client.scram(_scram(client))
    client.restart()
    client.open_header(to=server.settings.domains[-1])
    try:
        await client.expect("features")
        await client.bind()
    except AssertionError:
        return
    assert client.account is not None
    assert client.bare == client.account.jid, "the account moved to another domain"
