# SPDX-License-Identifier: Apache-2.0
import inspect
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from antiphon import _core
from antiphon._core import Jid
from antiphon.storage import api, archive
from antiphon.storage.api import Store
from antiphon.storage.model import Activity
from antiphon.xmpp.stanza import Stanza
from tests.unit.fake_core import Harness, refused

JULIET = Jid("juliet@capulet.example")


class Answering:
    """A link whose core always answers the same."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def call(self, operation: str, *arguments: object) -> object:
        return self.answer

    async def request(self, stanza: Stanza, timeout_s: float) -> Stanza:
        raise NotImplementedError

    def send(self, stanza: Stanza) -> None:
        raise NotImplementedError

    def caps_known(self, hash_name: str, ver: str) -> None:
        raise NotImplementedError


def test_every_operation_of_the_core_has_its_call_and_none_is_made_up() -> None:
    source = inspect.getsource(api) + inspect.getsource(archive)
    called = set(re.findall(r"call\(\s*\"([a-z._]+)\"", source))
    assert called == set(_core.OPERATIONS)


def test_the_operations_are_those_of_rust() -> None:
    file = Path(__file__).parents[3] / "rust/node/src/calls.rs"
    rust = set(re.findall(r'= "([a-z]+\.[a-z_]+)";', file.read_text()))
    assert rust == set(_core.OPERATIONS)


@pytest.mark.parametrize("answer", ["text", None, {}])
async def test_an_answer_of_another_type_is_a_fault(answer: object) -> None:
    with pytest.raises(TypeError, match="the core answered"):
        await Store(Answering(answer)).accounts.count("x")


async def test_last_activity_is_a_time() -> None:
    store = Store(Answering((1_000, "bye", False)))
    expected = Activity(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "bye", False)
    assert await store.activity.last(JULIET) == expected
    assert (await Store(Answering((0, "", True))).activity.last(JULIET)).at is None


async def test_a_feature_keeps_values_of_an_account() -> None:
    store = Harness().assembly.store
    await store.feature_map.put(JULIET, "x:y", b"1")
    assert await store.feature_map.get(JULIET, "x:y") == b"1"
    assert await store.feature_map.keys(JULIET, "x:") == ["x:y"]
    await store.feature_map.remove(JULIET, "x:y")
    assert await store.feature_map.get(JULIET, "x:y") is None
    with pytest.raises(ValueError, match="remove"):
        await store.feature_map.put(JULIET, "x:y", b"")
    error = await refused(store.feature_map.put(Jid("no@capulet.example"), "x", b"1"))
    assert error.condition == "item-not-found"


async def test_accounts_know_their_state_and_password() -> None:
    store = Harness().assembly.store
    assert await store.accounts.state(JULIET) is True
    assert await store.accounts.state(Jid("no@capulet.example")) is None
    await store.accounts.set_password(JULIET, "x")
    assert await store.accounts.verify(JULIET, "x")
    assert not await store.accounts.verify(JULIET, "y")
    assert await store.offline.count(JULIET) == 0
