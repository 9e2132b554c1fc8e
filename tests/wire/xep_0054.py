# SPDX-License-Identifier: Apache-2.0
"""XEP-0054 vcard-temp."""

from __future__ import annotations

from base64 import b64encode

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element


def card(name: str, *more: Element) -> Element:
    """A vCard with a full name."""
    return E("vCard", ns.VCARD, E("FN", None, name), *more)


async def fetch(client: Client, to: str | None = None) -> Element:
    """The answer to a vCard request."""
    return await client.iq("get", to=to, payload=E("vCard", ns.VCARD))


@pytest.mark.deviates(prosody="rebuilds the card")
async def test_stored_card_comes_back_whole(romeo: Client) -> None:
    # XEP-0054 #vcard-update / #vcard-retrieve, examples 3 and 1
    sent = card(
        "Peter Saint-Andre",
        E("N", None, E("FAMILY", None, "Saint-Andre")),
        E("JABBERID", None, romeo.bare),
    )
    assert (await romeo.iq("set", payload=sent)).type == "result"
    reply = await fetch(romeo)
    assert reply.at(("vCard", ns.VCARD)).canonical() == sent.canonical()


async def test_card_of_another_is_public(romeo: Client, juliet: Client) -> None:
    # XEP-0054 #others, example 4: by bare JID, also without a subscription
    await juliet.iq("set", payload=card("Juliet"))
    reply = await fetch(romeo, juliet.bare)
    assert reply.type == "result"
    assert (reply.frm, reply.at(("vCard", ns.VCARD), "FN").text) == (juliet.bare, "Juliet")


async def test_no_card_is_empty_or_item_not_found(romeo: Client) -> None:
    # XEP-0054, example 2
    reply = await fetch(romeo)
    if reply.type == "error":
        assert reply.condition == "item-not-found"
    else:
        assert len(reply.at(("vCard", ns.VCARD))) == 0


async def test_account_without_card_and_no_account_answer_alike(
    romeo: Client, juliet: Client
) -> None:
    # XEP-0054, example 5: no user or no card; both service-unavailable or item-not-found
    answers = [await fetch(romeo, jid) for jid in (juliet.bare, f"nobody-at-all@{romeo.host}")]
    for answer in answers:
        if answer.type == "error":
            assert answer.condition in ("item-not-found", "service-unavailable")


@pytest.mark.deviates(prosody="tells apart an account that does not exist")
async def test_missing_card_does_not_tell_whether_an_account_exists(
    romeo: Client, juliet: Client
) -> None:
    answers = [await fetch(romeo, jid) for jid in (juliet.bare, f"nobody-at-all@{romeo.host}")]
    assert (answers[0].type, answers[0].condition) == (answers[1].type, answers[1].condition)


async def test_card_of_another_cannot_be_set(romeo: Client, juliet: Client) -> None:
    # XEP-0054, example 6: forbidden or not-allowed
    await juliet.iq("set", payload=card("Juliet"))
    reply = await romeo.iq("set", to=juliet.bare, payload=card("Evil"))
    assert reply.type == "error"
    assert reply.condition in ("forbidden", "not-allowed", "service-unavailable")
    own = await fetch(juliet)
    assert own.at(("vCard", ns.VCARD), "FN").text == "Juliet"


async def test_card_survives_logout_and_is_there_for_others(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    await romeo.iq("set", payload=card("Romeo"))
    await romeo.close()
    assert (await fetch(juliet, romeo.bare)).at(("vCard", ns.VCARD), "FN").text == "Romeo"


async def test_avatar_of_usual_size_is_kept(romeo: Client, juliet: Client) -> None:
    picture = b64encode(bytes(range(256)) * 120).decode()  # 30 KB
    photo = E("PHOTO", None, E("TYPE", None, "image/png"), E("BINVAL", None, picture))
    assert (await romeo.iq("set", payload=card("Romeo", photo))).type == "result"
    reply = await fetch(juliet, romeo.bare)
    assert reply.at(("vCard", ns.VCARD), "PHOTO", "BINVAL").text == picture


@pytest.mark.deviates(prosody="announces it on the account too late for this version")
async def test_support_is_announced(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    assert ns.VCARD in {f.get("var") for f in reply.at(("query", ns.DISCO_INFO)).all("feature")}
