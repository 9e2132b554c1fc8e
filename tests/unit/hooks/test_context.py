# SPDX-License-Identifier: Apache-2.0
from datetime import UTC

from antiphon._core import Jid
from antiphon.hooks.bus import Bus, Point
from antiphon.hooks.context import Slot
from tests.unit.fake_core import Harness, make_config

ASK: Point[int, str, str] = Point("ask")
OTHER: Point[int, str, str] = Point("ask")


def test_a_point_has_its_handlers_in_order_and_no_others() -> None:
    def one(ctx: int, text: str) -> str:
        return f"one {ctx} {text}"

    def two(ctx: int, text: str) -> str:
        return f"two {ctx} {text}"

    bus = Bus({ASK: [one, two]})
    assert [handler(1, "x") for handler in bus.of(ASK)] == ["one 1 x", "two 1 x"]
    assert list(bus.of(OTHER)) == []
    assert repr(ASK) == "Point('ask')"


async def test_a_slot_keeps_one_value_for_each_host() -> None:
    slot: Slot[list[int]] = Slot(list)
    contexts = Harness(make_config("a.example", "b.example")).assembly.contexts
    slot.of(contexts["a.example"]).append(1)
    assert slot.of(contexts["a.example"]) == [1]
    assert slot.of(contexts["b.example"]) == []


async def test_administrators_are_known_by_their_bare_address() -> None:
    h = Harness(make_config(admins=["admin@capulet.example"]))
    ctx = h.assembly.contexts["capulet.example"]
    assert ctx.is_admin(Jid("admin@capulet.example/x"))
    assert not ctx.is_admin(Jid("juliet@capulet.example/x"))
    assert ctx.now().tzinfo is UTC


async def test_who_sees_presence_is_asked_of_the_core_except_of_oneself() -> None:
    h = Harness()
    ctx = h.assembly.contexts["capulet.example"]
    juliet, romeo = Jid("juliet@capulet.example"), Jid("romeo@capulet.example")
    assert await ctx.may_see_presence(of=juliet, by=juliet)
    assert not h.core.calls
    assert not await ctx.may_see_presence(of=juliet, by=romeo)
