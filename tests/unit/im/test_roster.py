# SPDX-License-Identifier: Apache-2.0
import pytest

from antiphon._core import Element, Jid
from antiphon.im.roster import LONGEST_GROUP, LONGEST_NAME, MOST_GROUPS
from antiphon.xmpp import ns
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, refused

JULIET = "juliet@capulet.example"
ROMEO = "romeo@montague.example"


def item(jid: str | None = ROMEO, *groups: str, **attrs: str) -> Element:
    return E("item", ns.ROSTER, *(E("group", ns.ROSTER, g) for g in groups), jid=jid, **attrs)


def query(*children: Element, ver: str | None = None) -> Element:
    return E("query", ns.ROSTER, *children, ver=ver)


async def test_an_item_is_set_with_name_and_groups_only() -> None:
    h = Harness()
    given = item(ROMEO, "Friends", "Lovers", name="Romeo", subscription="both", ask="subscribe")
    assert await h.iq("set", query(given)) is None
    assert h.core.rosters[JULIET] == {ROMEO: ("Romeo", ["Friends", "Lovers"])}


async def test_a_get_makes_the_session_interested() -> None:
    h = Harness()
    answer = await h.iq("get", query(ver=""))
    assert answer == query(ver="0")
    assert h.core.calls == [("roster.get", (Jid(JULIET), (0, 7), ""))]


async def test_an_unchanged_roster_is_an_empty_result() -> None:
    # RFC 6121 §2.6.2: an empty <query/> would mean an empty roster.
    assert await Harness().iq("get", query(ver="0")) is None


async def test_an_item_is_removed_once() -> None:
    h = Harness()
    await h.iq("set", query(item()))
    remove = query(item(subscription="remove"))
    assert await h.iq("set", remove) is None
    assert (await refused(h.iq("set", remove))).condition == "item-not-found"


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (query(), "bad-request"),
        (query(item(), item("other@montague.example")), "bad-request"),
        (query(item(), E("x", "urn:x")), "bad-request"),
        (query(E("item", "urn:x", jid=ROMEO)), "bad-request"),
        (query(item(None)), "bad-request"),
        (query(item("a@b@c/")), "jid-malformed"),
        (query(item(ROMEO, "a", "a")), "bad-request"),
        (query(item(ROMEO, "a", "")), "not-acceptable"),
        (query(item(ROMEO, "a" * (LONGEST_GROUP + 1))), "not-acceptable"),
        (query(item(name="a" * (LONGEST_NAME + 1))), "not-acceptable"),
        (query(item(ROMEO, *(str(n) for n in range(MOST_GROUPS + 1)))), "not-acceptable"),
        (query(item(JULIET)), "not-allowed"),
    ],
)
async def test_a_malformed_set_changes_nothing(payload: Element, condition: str) -> None:
    h = Harness()
    assert (await refused(h.iq("set", payload))).condition == condition
    assert not h.core.calls


async def test_a_get_holds_no_items() -> None:
    assert (await refused(Harness().iq("get", query(item())))).condition == "bad-request"


@pytest.mark.parametrize("to", [JULIET, "no@capulet.example"])
@pytest.mark.parametrize("frm", ["romeo@capulet.example/x", "mallory@evil.example/x"])
async def test_anothers_roster_is_forbidden(frm: str, to: str) -> None:
    h = Harness()
    assert (await refused(h.iq("get", query(), frm=frm, to=to))).condition == "forbidden"
    assert (await refused(h.iq("set", query(item()), frm=frm, to=to))).condition == "forbidden"
    assert not h.core.calls
