# SPDX-License-Identifier: Apache-2.0
"""RFC 6121 §2: the roster, its pushes, its versions and its errors."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.play import Clients
from support.xml import E, Element, iq, message


def items(reply: Element) -> dict[str, Element]:
    """The items of a roster result by JID."""
    query = reply.child("query", ns.ROSTER)
    assert query is not None, f"no roster in {reply}"
    return {i.get("jid") or "": i for i in query.all("item")}


def groups(item: Element) -> list[str]:
    """The item's groups, sorted."""
    return sorted(g.text for g in item.all("group"))


async def test_fresh_roster_is_empty(romeo: Client) -> None:
    # RFC 6121 §2.1.4: a result with an empty query
    assert items(await romeo.roster()) == {}


async def test_added_item_is_pushed_and_kept(clients: Clients, romeo: Client) -> None:
    # RFC 6121 §2.3.1 and §2.3.2, examples
    reply = await romeo.roster_set("nurse@example.com", name="Nurse", groups=["Servants"])
    assert (reply.type, reply.payload) == ("result", None)
    item = await romeo.push("nurse@example.com", name="Nurse", subscription="none")
    assert groups(item) == ["Servants"]
    other = await clients.online(romeo)
    kept = items(await other.roster())["nurse@example.com"]
    assert (kept.get("name"), groups(kept)) == ("Nurse", ["Servants"])


async def test_push_goes_to_every_interested_resource_and_no_other(
    clients: Clients, romeo: Client
) -> None:
    # RFC 6121 §2.1.6 and §2.2: a resource is interested once it has fetched the roster
    interested = await clients.bound(romeo)
    await interested.roster()
    indifferent = await clients.bound(romeo)
    await indifferent.online()
    await romeo.roster_set("nurse@example.com")
    for client in (romeo, interested):
        pushed = await client.expect(
            lambda e: e.name == "iq" and e.has("query", ns.ROSTER), type="set"
        )
        assert pushed.frm in (None, romeo.bare)
        assert pushed.to in (None, client.jid)
        assert pushed.id
        client.answer(pushed)
    await indifferent.expect_nothing("iq", after=romeo)


async def test_push_carries_one_item(romeo: Client) -> None:
    await romeo.roster_set("a@example.com")
    await romeo.push("a@example.com")
    await romeo.roster_set("b@example.com")
    pushed = await romeo.expect("iq", type="set")
    assert len(pushed.at(("query", ns.ROSTER)).all("item")) == 1


async def test_update_replaces_name_and_groups(romeo: Client) -> None:
    # RFC 6121 §2.4
    await romeo.roster_set("nurse@example.com", name="Nurse", groups=["A", "B"])
    await romeo.push("nurse@example.com")
    await romeo.roster_set("nurse@example.com", groups=["C"])
    item = await romeo.push("nurse@example.com")
    assert item.get("name") in (None, "")
    assert groups(item) == ["C"]


async def test_client_cannot_set_its_subscription(romeo: Client) -> None:
    # RFC 6121 §2.1.2.5: any value but remove is ignored, ask and approved too
    await romeo.roster_set(
        "nurse@example.com", subscription="both", ask="subscribe", approved="true"
    )
    item = await romeo.push("nurse@example.com", subscription="none")
    assert (item.get("ask"), item.get("approved")) in ((None, None), (None, "false"))


async def test_update_keeps_the_subscription(couple: tuple[Client, Client]) -> None:
    romeo, juliet = couple
    await romeo.roster_set(juliet.bare, name="Juliet", subscription="none")
    await romeo.push(juliet.bare, name="Juliet", subscription="both")


async def test_removed_item_is_pushed_and_gone(romeo: Client) -> None:
    # RFC 6121 §2.5.1, examples
    await romeo.roster_set("nurse@example.com")
    await romeo.push("nurse@example.com")
    reply = await romeo.roster_set("nurse@example.com", subscription="remove")
    assert reply.type == "result"
    await romeo.push("nurse@example.com", subscription="remove")
    assert items(await romeo.roster()) == {}


async def test_removal_ends_both_subscriptions(couple: tuple[Client, Client]) -> None:
    # RFC 6121 §2.5.2: unsubscribe and unsubscribed are the server's work
    romeo, juliet = couple
    await romeo.roster_set(juliet.bare, subscription="remove")
    await romeo.push(juliet.bare, subscription="remove")
    types = {(await juliet.expect("presence", from_=romeo.bare)).type for _ in range(2)}
    assert types == {"unsubscribe", "unsubscribed"}
    await juliet.expect("presence", type="unavailable", from_=romeo.jid)
    left = items(await juliet.roster()).get(romeo.bare)
    assert left is None or left.get("subscription") == "none"


async def test_removing_an_unknown_item_is_item_not_found(romeo: Client) -> None:
    # RFC 6121 §2.5.3
    reply = await romeo.roster_set("nobody@example.com", subscription="remove")
    assert (reply.type, reply.condition) == ("error", "item-not-found")


BAD_SETS = {
    "no item": E("query", ns.ROSTER),
    "two items": E(
        "query",
        ns.ROSTER,
        E("item", None, jid="a@example.com"),
        E("item", None, jid="b@example.com"),
    ),
    "no jid": E("query", ns.ROSTER, E("item")),
}


@pytest.mark.parametrize("query", BAD_SETS.values(), ids=BAD_SETS.keys())
async def test_malformed_set_is_bad_request(romeo: Client, query: Element) -> None:
    # RFC 6121 §2.3.3
    reply = await romeo.iq("set", payload=query)
    assert (reply.type, reply.error_type, reply.condition) == ("error", "modify", "bad-request")


@pytest.mark.deviates(prosody="keeps one of the two")
async def test_duplicate_group_is_bad_request(romeo: Client) -> None:
    # RFC 6121 §2.3.3 item 3
    reply = await romeo.roster_set("nurse@example.com", groups=["A", "A"])
    assert (reply.type, reply.condition) == ("error", "bad-request")


@pytest.mark.deviates(prosody="has no limits on groups and names")
@pytest.mark.parametrize(
    ("name", "group"),
    [("n", ""), ("n", "g" * 1100), ("n" * 1100, "g")],
    ids=["empty", "group", "name"],
)
async def test_unacceptable_name_or_group_is_not_acceptable(
    romeo: Client, name: str, group: str
) -> None:
    # RFC 6121 §2.3.3 items 4-6
    reply = await romeo.roster_set("nurse@example.com", name=name, groups=[group])
    assert (reply.type, reply.condition) == ("error", "not-acceptable")


async def test_malformed_jid_is_refused(romeo: Client) -> None:
    reply = await romeo.roster_set("@@example.com")
    assert reply.type == "error"
    assert reply.condition in ("jid-malformed", "bad-request")


async def test_jid_is_prepared(romeo: Client) -> None:
    # RFC 7622 §3.3
    await romeo.roster_set("NuRsE@EXAMPLE.com")
    await romeo.push("nurse@example.com")


async def test_text_that_needs_escaping_survives(romeo: Client) -> None:
    await romeo.roster_set("nurse@example.com", name="<&'\">", groups=["ž & <g>"])
    item = await romeo.push("nurse@example.com", name="<&'\">")
    assert groups(item) == ["ž & <g>"]


async def test_foreign_roster_get_is_refused(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §2.1.5 / §2.3.3: forbidden, or service-unavailable that says nothing
    for kind in ("get", "set"):
        query = E(
            "query", ns.ROSTER, E("item", None, jid="x@example.com") if kind == "set" else None
        )
        reply = await romeo.iq(kind, to=juliet.bare, payload=query)
        assert reply.type == "error"
        assert reply.condition in ("forbidden", "service-unavailable", "not-allowed")
    assert items(await juliet.roster()) == {}


async def test_roster_get_to_own_bare_jid_is_answered(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.bare, payload=E("query", ns.ROSTER))
    assert reply.type == "result"
    assert reply.has("query", ns.ROSTER)


async def test_answers_to_pushes_are_swallowed(romeo: Client) -> None:
    # RFC 6121 §2.1.6: also an error
    await romeo.roster_set("nurse@example.com")
    pushed = await romeo.expect("iq", type="set")
    error = E("error", None, E("service-unavailable", ns.STANZAS), type="cancel")
    romeo.send(iq("error", error, id=pushed.id))
    await romeo.expect_nothing()


async def test_forged_roster_push_arrives_with_its_true_sender(
    romeo: Client, juliet: Client
) -> None:
    # attack 15: CVE-2015-8688; a client can tell it by the address
    item = E("item", None, jid="evil@example.com", subscription="both")
    romeo.send(iq("set", E("query", ns.ROSTER, item), to=juliet.jid))
    try:
        got = await juliet.expect("iq", type="set", timeout_s=1)
    except AssertionError:
        return
    assert got.frm == romeo.jid
    assert items(await juliet.roster()) == {}


async def test_pending_in_contact_is_not_in_the_roster(romeo: Client, juliet: Client) -> None:
    # RFC 6121 §2.1.4 / §A.2.1: None + Pending In is hidden
    romeo.send(E("presence", ns.CLIENT, type="subscribe", to=juliet.bare))
    await juliet.expect("presence", type="subscribe")
    assert items(await juliet.roster()) == {}
    await juliet.expect_nothing("iq", after=romeo)


async def test_roster_survives_logout(clients: Clients, romeo: Client) -> None:
    await romeo.roster_set("nurse@example.com", name="Nurse")
    await romeo.close()
    again = await clients.online(romeo)
    assert "nurse@example.com" in items(await again.roster())


# -- versioning (RFC 6121 §2.6) --------------------------------------------------


async def test_versioning_is_announced(clients: Clients) -> None:
    # RFC 6121 §2.6.1
    client = await clients.authenticated()
    assert client.features.has("ver", ns.ROSTERVER)


async def test_version_comes_with_the_roster_and_with_pushes(romeo: Client) -> None:
    # RFC 6121 §2.6.2 and §2.6.3
    await romeo.roster_set("friar@example.com")
    first = (await romeo.roster("")).at(("query", ns.ROSTER)).get("ver")
    assert first is not None
    romeo.drain()
    await romeo.roster_set("nurse@example.com")
    pushed = await romeo.expect("iq", type="set")
    ver = pushed.at(("query", ns.ROSTER)).get("ver")
    assert ver not in (None, first)


async def test_unchanged_roster_is_an_empty_result(clients: Clients, romeo: Client) -> None:
    # RFC 6121 §2.6.3: no query at all, not an empty one
    await romeo.roster_set("nurse@example.com")
    ver = (await romeo.roster("")).at(("query", ns.ROSTER)).get("ver")
    again = await clients.bound(romeo)
    reply = await again.roster(ver)
    assert reply.payload is None


async def test_changed_roster_is_sent_whole_or_as_pushes(clients: Clients, romeo: Client) -> None:
    # RFC 6121 §2.6.3, example of interim pushes
    await romeo.roster_set("nurse@example.com")
    ver = (await romeo.roster("")).at(("query", ns.ROSTER)).get("ver")
    await romeo.roster_set("friar@example.com")
    await romeo.roster_set("nurse@example.com", subscription="remove")
    again = await clients.bound(romeo)
    reply = await again.roster(ver)
    query = reply.child("query", ns.ROSTER)
    if query is not None:
        assert set(items(reply)) == {"friar@example.com"}
        assert query.get("ver") != ver
        return
    pushed = {}
    for _ in range(2):
        push = await again.expect("iq", type="set")
        item = push.at(("query", ns.ROSTER), "item")
        pushed[item.get("jid")] = item.get("subscription")
    assert pushed == {"friar@example.com": "none", "nurse@example.com": "remove"}


async def test_unknown_version_gets_the_whole_roster(romeo: Client) -> None:
    await romeo.roster_set("nurse@example.com")
    reply = await romeo.roster("no-such-version")
    assert set(items(reply)) == {"nurse@example.com"}


# -- order and limits --------------------------------------------------------------


async def test_sets_in_a_row_are_handled_in_order(romeo: Client) -> None:
    # RFC 6120 §10.1
    for i in range(30):
        item = E("item", None, jid="nurse@example.com", name=f"n{i}")
        romeo.send(iq("set", E("query", ns.ROSTER, item)))
    names = [(await romeo.push("nurse@example.com")).get("name") for _ in range(30)]
    assert names == [f"n{i}" for i in range(30)]
    assert items(await romeo.roster())["nurse@example.com"].get("name") == "n29"


async def test_change_is_seen_before_the_next_stanza_of_the_same_client(
    couple: tuple[Client, Client],
) -> None:
    # RFC 6120 §10.1: a removal, then a presence that must no longer reach the contact
    romeo, juliet = couple
    item = E("item", None, jid=juliet.bare, subscription="remove")
    romeo.send(iq("set", E("query", ns.ROSTER, item)))
    romeo.send(E("presence", ns.CLIENT, E("show", None, "dnd")))
    romeo.send(message(juliet.jid, "done"))
    await juliet.expect("message")
    await juliet.expect_nothing(lambda e: e.name == "presence" and e.has("show"))


@pytest.mark.ours("roster_items")
@pytest.mark.settings(limits={"roster_items": 5})
async def test_items_above_the_limit_are_refused(romeo: Client) -> None:
    for i in range(5):
        assert (await romeo.roster_set(f"c{i}@example.com")).type == "result"
    reply = await romeo.roster_set("c5@example.com")
    assert reply.type == "error"
    assert reply.condition in ("resource-constraint", "not-allowed", "policy-violation")
    assert (await romeo.roster_set("c0@example.com", name="still")).type == "result"
