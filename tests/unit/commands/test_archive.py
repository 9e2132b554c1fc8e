# SPDX-License-Identifier: Apache-2.0
"""Commands on archives."""

import pytest

from antiphon.commands import CommandContext, registry
from antiphon.commands._registry import CommandError
from antiphon.commands.archive import ArchiveLine
from tests.unit.fake_core import Harness
from tests.unit.xep.fake_archive import FakeArchive, ms

JULIET = "juliet@capulet.example"


def stage() -> tuple[CommandContext, FakeArchive]:
    h = Harness()
    kept = FakeArchive().put_into(h.core)
    return CommandContext(store=h.assembly.store, hosts=h.assembly.contexts), kept


async def run(ctx: CommandContext, name: str, **arguments: object) -> object:
    return await registry()[name].run(ctx, arguments)


async def test_an_archive_tells_its_size_and_ends() -> None:
    ctx, kept = stage()
    assert await run(ctx, "archive_size", jid=JULIET) == ArchiveLine(0, None, None)
    kept.add("2026-01-01T09:00:00.250", "romeo@capulet.example", "x")
    kept.add("2026-01-02T09:00:00", "romeo@capulet.example", "y")
    assert await run(ctx, "archive_size", jid=JULIET) == ArchiveLine(
        2, "2026-01-01T09:00:00.250Z", "2026-01-02T09:00:00.000Z"
    )


@pytest.mark.parametrize(
    ("arguments", "purged"),
    [
        ({}, (None, None)),
        ({"peer": "romeo@capulet.example/x"}, ("romeo@capulet.example", None)),
        ({"before": "2026-01-01T00:00:00Z"}, (None, ms("2026-01-01T00:00:00"))),
    ],
)
async def test_messages_are_purged(
    arguments: dict[str, object], purged: tuple[str | None, int | None]
) -> None:
    ctx, kept = stage()
    assert await run(ctx, "purge_archive", jid=JULIET, **arguments) is None
    assert kept.purged == [purged]


@pytest.mark.parametrize(
    ("arguments", "condition"),
    [
        ({"jid": "nobody@capulet.example"}, "item-not-found"),
        ({"jid": JULIET, "before": "yesterday"}, "bad-request"),
        ({"jid": "juliet@elsewhere.example"}, "item-not-found"),
    ],
)
async def test_a_refused_command_purges_nothing(
    arguments: dict[str, object], condition: str
) -> None:
    ctx, kept = stage()
    with pytest.raises(CommandError) as caught:
        await run(ctx, "purge_archive", **arguments)
    assert caught.value.condition == condition
    assert kept.purged == []
