# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime, timedelta, timezone
from typing import cast

import pytest

from antiphon._core import Element, Jid, Stanza
from antiphon.xmpp import ns
from antiphon.xmpp.errors import StanzaError
from antiphon.xmpp.jid import parse_jid
from antiphon.xmpp.stamp import from_ms, utc_text
from antiphon.xmpp.stanza import E, Iq, language
from tests.unit.fake_core import Request


def iq(**given: object) -> Iq:
    return Iq(cast(Stanza, Request(**given)))  # type: ignore[arg-type]


def test_builder_drops_absent_attributes_and_children() -> None:
    element = E("item", ns.ROSTER, None, "a", name="x", ask=None, from_="b", count=3)
    assert element.attrs == {"name": "x", "from": "b", "count": "3"}
    assert element.text == "a"


def test_language_is_that_of_the_element_itself() -> None:
    inner = b"<a xmlns='x' xml:lang='de'><b xml:lang='en'/></a>"
    assert language(Element.parse(inner)) == "de"
    assert language(Element.parse(b"<a xmlns='x'><b xml:lang='en'/></a>")) is None


def test_an_iq_without_to_is_for_the_askers_account() -> None:
    asked = iq(frm=Jid("romeo@montague.example/orchard"))
    assert asked.to == Jid("romeo@montague.example")
    assert asked.is_own
    assert asked.type == "get"


def test_an_iq_before_login_has_no_sender() -> None:
    asked = iq(type="set", to=Jid("montague.example"), address="192.0.2.1")
    assert asked.is_before_login
    assert not asked.is_own
    assert (asked.type, asked.address) == ("set", "192.0.2.1")
    with pytest.raises(StanzaError, match="not-authorized"):
        _ = asked.frm


def test_an_iq_without_payload_is_a_bad_request() -> None:
    with pytest.raises(StanzaError, match="bad-request"):
        _ = iq(frm=Jid("romeo@montague.example")).payload


@pytest.mark.parametrize(
    ("text", "condition"), [(None, "bad-request"), ("", "bad-request"), ("a@b@c/", "jid-malformed")]
)
def test_a_bad_address_gets_its_condition(text: str | None, condition: str) -> None:
    with pytest.raises(StanzaError) as caught:
        parse_jid(text)
    assert caught.value.condition == condition


def test_times_on_the_wire_are_utc() -> None:
    moment = datetime(2026, 6, 30, 14, 0, 1, 999_999, timezone(timedelta(hours=2)))
    assert utc_text(moment) == "2026-06-30T12:00:01Z"
    assert from_ms(1_000) == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
