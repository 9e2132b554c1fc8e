# SPDX-License-Identifier: Apache-2.0
"""XEP-0431 Full Text Search in MAM: what a search finds, what it never finds, what it survives."""

from __future__ import annotations

import random

import pytest

from support import ns
from support.archive import (
    FULLTEXT,
    MAM_0,
    MAM_1,
    MAM_TMP,
    Ask,
    archive,
    chat,
    refused,
    said,
    search,
    whole,
)
from support.client import Client, fence
from support.play import Clients
from support.xml import E, Element

pytestmark = pytest.mark.ours("other servers search in their own way")

TEXTS = (
    "The invoice for March is attached",
    "March comes in like a lion",
    "Ça va très bien, élève!",
    "ELEVE",
    "die Straße nach Zürich",
    "我们明天去北京吃饭",
    "東京タワーに行きました",
    "l'homme 3.14 a-b.c",
    "see https://example.org/path?q=moon now",
    "Pale moon, pale river",
)

FINDS = {
    "one word": ("invoice", [0]),
    "case": ("INVOICE", [0]),
    "all terms in any order": ("march invoice", [0]),
    "a term that is missing": ("march invoice lion", []),
    "a word, not its part": ("arch", []),
    "phrase": ('"invoice for march"', [0]),
    "phrase in another order": ('"march for invoice"', []),
    "phrase and word": ('attached "for march"', [0]),
    "prefix": ("attac*", [0]),
    "prefix of all": ("mar*", [0, 1]),
    "prefix in a phrase": ('"for mar"*', [0]),
    "accents": ("eleve", [2, 3]),
    "accents asked for": ("élève", [2, 3]),
    "cedilla": ("ca", [2]),
    "umlaut": ("zurich", [4]),
    "sharp s": ("strasse", [4]),
    "part of a Chinese sentence": ("北京", [5]),
    "two parts of it": ("明天 吃饭", [5]),
    "another order of signs": ("京北", []),
    "kana": ("タワー", [6]),
    "behind an apostrophe": ("homme", [7]),
    "part of an address": ("example.org", [8]),
    "word of an address": ("moon", [8, 9]),
    "twice": ("pale pale", [9]),
    "absent": ("zeppelin", []),
}


@pytest.fixture
async def texts(romeo: Client, juliet: Client) -> Client:
    """Romeo, in whose archive all of TEXTS is."""
    await said(romeo, juliet, *TEXTS)
    return romeo


async def test_what_searches_find(texts: Client) -> None:
    for name, (query, expected) in FINDS.items():
        found = await search(texts, query)
        assert found == [TEXTS[n] for n in expected], name


@pytest.mark.parametrize("name", ["full-text-search", "withtext"])
async def test_other_names_of_the_field(texts: Client, name: str) -> None:
    assert await search(texts, "lion", name) == [TEXTS[1]]


@pytest.mark.parametrize("dialect", [MAM_1, MAM_0, MAM_TMP])
async def test_old_dialects_search_too(texts: Client, dialect: str) -> None:
    assert await search(texts, "lion") == [TEXTS[1]]
    name = "withtext" if dialect == MAM_TMP else FULLTEXT
    assert (await archive(texts, Ask({name: "lion"}, dialect=dialect))).bodies == [TEXTS[1]]


async def test_an_empty_search_is_none(texts: Client) -> None:
    for empty in ("", "   "):
        assert len((await archive(texts, **{FULLTEXT: empty})).results) == len(TEXTS)


HOSTILE = (
    "'; DROP TABLE archive; --",
    '" OR "1"="1',
    "body: x",
    "NEAR(a b, 5)",
    "AND",
    "a NOT b",
    "(((((",
    '"""',
    "*",
    "**",
    "a*",
    "^a",
    "-a",
    "+a",
    "{a b}",
    "a" * 1_000,
    "a " * 100,
    "é" * 600,
    "\u202e\u200b\u00ad",
    "%",
    "_",
    "\\",
    "?",
    "$1",
    "owner:*",
    "\U0001f600",
    "x" * 5_000,
)


async def test_hostile_searches_get_an_answer_or_bad_request(texts: Client) -> None:
    for text in HOSTILE:
        query = Ask({FULLTEXT: text}).payload("q")
        reply = await texts.iq("set", payload=query)
        texts.drain()
        if reply.type == "error":
            assert reply.condition == "bad-request", text
            assert reply.at("error").has("text", ns.STANZAS), text
    assert await search(texts, "lion") == [TEXTS[1]]


PIECES = (
    *'"*^:(){}-+~%_\\§ \t',
    *("AND", "OR", "NOT", "NEAR(", "lion", "li*", '"li', "ß", "新", "\u0301"),
)


async def test_random_searches_get_an_answer_or_bad_request(texts: Client) -> None:
    dice = random.Random(431)
    asked: dict[str, str] = {}
    for number in range(300):
        text = "".join(dice.choices(PIECES, k=dice.randint(1, 12)))
        id_ = f"fuzz-{number}"
        asked[id_] = text
        payload = Ask({FULLTEXT: text}, {"max": 1}).payload(id_)
        texts.send(E("iq", ns.CLIENT, payload, type="set", id=id_))
        if number % 20 == 19:
            await texts.sync()
    for id_, text in asked.items():
        reply = await texts.expect("iq", id=id_)
        if reply.type == "error":
            assert reply.condition == "bad-request", text
            assert reply.at("error").has("text", ns.STANZAS), text
    assert await search(texts, "lion") == [TEXTS[1]]


async def test_operators_are_plain_words(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "cats and dogs", "cats or dogs", "cats not dogs")
    assert await search(romeo, "cats OR dogs") == ["cats or dogs"]
    assert await search(romeo, "cats NOT dogs") == ["cats not dogs"]
    assert await search(romeo, "cats -dogs") == ["cats and dogs", "cats or dogs", "cats not dogs"]


async def test_only_the_own_archive_is_searched(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    stranger = await clients.online()
    await said(romeo, juliet, "our secret")
    assert await search(romeo, "secret") == ["our secret"]
    assert await search(juliet, "secret") == ["our secret"]
    assert await search(stranger, "secret") == []
    page = await archive(stranger, Ask({FULLTEXT: "secret"}, {"max": 0}))
    assert page.count in (0, None)
    reply = await refused(stranger, Ask({FULLTEXT: "secret"}, to=romeo.bare))
    assert reply.condition == "forbidden"


ENCRYPTED = {
    "OMEMO": E("encrypted", "urn:xmpp:omemo:2", E("payload", None, "x")),
    "OMEMO 0.3": E("encrypted", "eu.siacs.conversations.axolotl", E("payload", None, "x")),
    "OpenPGP": E("openpgp", "urn:xmpp:openpgp:0", "x"),
    "declared": E("encryption", "urn:xmpp:eme:0", namespace="urn:example"),
}


@pytest.mark.parametrize("payload", ENCRYPTED.values(), ids=ENCRYPTED.keys())
async def test_encrypted_messages_are_never_found(
    romeo: Client, juliet: Client, payload: Element
) -> None:
    # mam-fulltext.md §2: not even by the text that stands in for them
    romeo.send(chat(juliet.jid, "This message is encrypted", payload))
    await said(romeo, juliet, "This message is plain")
    assert await search(juliet, "message") == ["This message is plain"]
    assert len((await archive(juliet)).results) == 2


async def test_a_body_that_stands_in_for_something_is_not_found(
    romeo: Client, juliet: Client
) -> None:
    fallback = E("fallback", "urn:xmpp:fallback:0", for_="urn:example")
    romeo.send(chat(juliet.jid, "Your client cannot show this", fallback))
    await fence(romeo, juliet)
    assert await search(juliet, "client") == []


async def test_a_search_keeps_to_the_other_filters(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    for number in range(4):
        await said(romeo, juliet, f"moon {number}", f"sun {number}")
        await said(romeo, nurse, f"moon {number}0")
    assert await search(romeo, "moon", **{"with": nurse.bare}) == [f"moon {n}0" for n in range(4)]
    found = await whole(romeo)
    middle = found[5]
    behind = [one.body for one in found[6:] if one.body and one.body.startswith("moon")]
    assert await search(romeo, "moon", **{"after-id": middle.id}) == behind
    before = [one.body for one in found[:5] if one.body and one.body.startswith("moon")]
    assert await search(romeo, "moon", **{"before-id": middle.id}) == before
    ids = [one.id for one in found[:3]]
    assert await search(romeo, "moon", ids=ids) == ["moon 0", "moon 00"]
    assert await search(romeo, "moon", end="2001-01-01T00:00:00Z") == []


async def test_a_search_comes_in_pages(romeo: Client, juliet: Client) -> None:
    texts = [f"{'moon' if number % 3 == 0 else 'sun'} {number}" for number in range(60)]
    await said(romeo, juliet, *texts)
    moons = [text for text in texts if text.startswith("moon")]
    assert await search(romeo, "moon") == moons
    assert [one.body for one in await whole(romeo, size=7, **{FULLTEXT: "moon"})] == moons
    found: list[str | None] = []
    end = ""
    while True:
        page = await archive(romeo, Ask({FULLTEXT: "moon"}, {"max": 7, "before": end}))
        found = [*page.bodies, *found]
        if page.is_complete:
            break
        end = page.rsm("first") or ""
    assert found == moons
    flipped = await archive(romeo, Ask({FULLTEXT: "moon"}, {"max": 3}, is_flipped=True))
    assert flipped.bodies == moons[2::-1]


async def test_every_body_of_a_message_is_searched(romeo: Client, juliet: Client) -> None:
    czech = E("body", None, "měsíc", xml_lang="cs")
    romeo.send(chat(juliet.jid, "moon", czech))
    await fence(romeo, juliet)
    for text in ("moon", "mesic"):
        assert await search(juliet, text) == ["moon"]


@pytest.mark.settings(modules={"disable": ["fulltext"]})
async def test_search_that_is_off_is_not_there(romeo: Client, juliet: Client) -> None:
    await said(romeo, juliet, "x")
    reply = await romeo.iq("get", to=romeo.bare, payload=E("query", ns.DISCO_INFO))
    features = {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
    assert "urn:xmpp:mam:2" in features
    assert "urn:xmpp:fulltext:0" not in features
    for name in (FULLTEXT, "full-text-search", "withtext"):
        reply = await refused(romeo, Ask({name: "x"}))
        assert reply.condition == "feature-not-implemented"
