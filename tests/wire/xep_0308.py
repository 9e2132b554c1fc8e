# SPDX-License-Identifier: Apache-2.0
"""XEP-0308 Last Message Correction: passes, is archived, and a search knows the latest text."""

from __future__ import annotations

import pytest

from support import ns
from support.archive import archive, chat, inbox, said, search
from support.client import Client, fence
from support.play import Clients
from support.xml import E, Element, message

pytestmark = pytest.mark.ours("other servers search in their own way")

CORRECT = "urn:xmpp:message-correct:0"


def correction(to: str, text: str, id_: str) -> Element:
    """XEP-0308 #usecase, example 4."""
    return chat(to, text, E("replace", CORRECT, id=id_))


async def test_a_correction_passes_and_is_archived_beside_what_it_corrects(
    romeo: Client, juliet: Client
) -> None:
    romeo.send(chat(juliet.jid, "But soft, what light through yonder airlock", id="bad1"))
    romeo.send(correction(juliet.jid, "But soft, what light through yonder window", "bad1"))
    got = await juliet.expect(lambda e: e.has("replace", CORRECT))
    assert got.at(("replace", CORRECT)).get("id") == "bad1"
    for client in (romeo, juliet):
        page = await archive(client)
        assert [body and body.split()[-1] for body in page.bodies] == ["airlock", "window"]


async def test_a_search_finds_the_correction_and_not_what_was_corrected(
    romeo: Client, juliet: Client
) -> None:
    romeo.send(chat(juliet.jid, "yonder airlock", id="bad1"))
    await fence(romeo, juliet)
    for client in (romeo, juliet):
        assert await search(client, "airlock") == ["yonder airlock"]
    romeo.send(correction(juliet.jid, "yonder door", "bad1"))
    romeo.send(correction(juliet.jid, "yonder window", "bad1"))
    await fence(romeo, juliet)
    for client in (romeo, juliet):
        assert await search(client, "airlock") == []
        # The correction that came before is out of date as well.
        assert await search(client, "yonder") == ["yonder window"]
        assert await search(client, "window") == ["yonder window"]


async def test_nobody_corrects_the_words_of_another(
    clients: Clients, romeo: Client, juliet: Client
) -> None:
    # XEP-0308 #security: the sender must be the same
    romeo.send(chat(juliet.jid, "my word", id="his"))
    await fence(romeo, juliet)
    juliet.send(correction(romeo.jid, "no word", "his"))
    stranger = await clients.online()
    stranger.send(correction(juliet.jid, "some word", "his"))
    await fence(juliet, romeo)
    await fence(stranger, juliet)
    for client in (romeo, juliet):
        assert "my word" in await search(client, "my")


async def test_a_correction_of_nothing_is_a_message(romeo: Client, juliet: Client) -> None:
    romeo.send(correction(juliet.jid, "window", "never sent"))
    await said(romeo, juliet, "behind it")
    assert (await archive(juliet)).bodies == ["window", "behind it"]
    assert await search(juliet, "window") == ["window"]


async def test_the_inbox_shows_the_correction_and_counts_it_once(
    romeo: Client, juliet: Client
) -> None:
    # requirements 7: the column inbox
    await said(romeo, juliet, "before it")
    romeo.send(chat(juliet.jid, "yonder airlock", id="bad1"))
    for text in ("yonder door", "yonder window"):
        romeo.send(correction(juliet.jid, text, "bad1"))
        await fence(romeo, juliet)
        for client, unread in ((juliet, 2), (romeo, 0)):
            (entry,) = (await inbox(client)).entries
            assert (entry.unread, entry.body) == (unread, text)
    await said(romeo, juliet, "behind it")
    romeo.send(correction(juliet.jid, "yonder light", "bad1"))
    await fence(romeo, juliet)
    (entry,) = (await inbox(juliet)).entries
    assert (entry.unread, entry.body) == (3, "behind it")


async def test_a_retraction_takes_the_corrections_along(romeo: Client, juliet: Client) -> None:
    # XEP-0424 #business: the id of the first message stands for all
    await said(romeo, juliet, "before it")
    romeo.send(chat(juliet.jid, "a secret", id="s1"))
    romeo.send(correction(juliet.jid, "the secret", "s1"))
    retract = E("retract", "urn:xmpp:message-retract:1", id="s1")
    store = E("store", ns.HINTS)
    romeo.send(message(juliet.jid, retract, store, type="chat", id="r1"))
    await fence(romeo, juliet)
    for client in (romeo, juliet):
        assert (await archive(client)).bodies[:3] == ["before it", None, None]
        assert await search(client, "secret") == []
        (entry,) = (await inbox(client)).entries
        assert entry.body is None
