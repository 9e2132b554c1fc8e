# SPDX-License-Identifier: Apache-2.0
"""Many accounts at once."""

import asyncio
from collections.abc import Mapping

import pytest

from antiphon.cli.importing import AT_ONCE, BadLine, Imported, import_accounts, parse
from antiphon.commands import CommandError


class Recorder:
    """Notes commands; refuses accounts named `bad`."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Mapping[str, object]]] = []
        self.under_way = 0
        self.most = 0

    async def run(self, command: str, arguments: Mapping[str, object]) -> object:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if str(arguments["jid"]).startswith("bad"):
            raise CommandError("jid-malformed", "no address")
        self.ran.append((command, arguments))
        return None


async def done(text: str) -> tuple[Recorder, Imported, list[tuple[int, str]]]:
    recorder = Recorder()
    said: list[tuple[int, str]] = []
    result = await import_accounts(
        recorder, text.splitlines(keepends=True), lambda number, fault: said.append((number, fault))
    )
    return recorder, result, said


async def test_lines_with_passwords_are_imported() -> None:
    recorder, result, said = await done(
        'jid,password\na@x,one\n\n# note\nb@x,"two, with a comma"\n'
    )
    assert result == Imported(good=2, bad=0)
    assert said == []
    assert recorder.ran == [
        ("put_account", {"jid": "a@x", "password": "one"}),
        ("put_account", {"jid": "b@x", "password": "two, with a comma"}),
    ]


async def test_a_bad_line_is_named_and_stops_nothing() -> None:
    recorder, result, said = await done("a@x,one\njust-a-jid\nbad@x,two\n,p\nc@x,three\n")
    assert result == Imported(good=2, bad=3)
    assert sorted(said) == [
        (2, "just-a-jid has neither a password nor keys"),
        (3, "no address"),
        (4, "the JID is missing"),
    ]
    assert len(recorder.ran) == 2


async def test_text_that_is_no_csv_is_named() -> None:
    _recorder, result, said = await done('a@x,"one"two\nb@x,three\n')
    assert result.good == 1
    assert said[0][0] == 1
    assert said[0][1].startswith("not CSV")


async def test_the_last_line_of_an_account_wins() -> None:
    recorder, _result, _said = await done("a@x,one\na@x,two\na@x,three\n")
    assert [arguments["password"] for _command, arguments in recorder.ran] == [
        "one",
        "two",
        "three",
    ]


async def test_commands_run_at_once_within_a_bound() -> None:
    recorder, result, _said = await done("".join(f"u{n}@x,p\n" for n in range(1000)))
    assert result.good == 1000
    assert 1 < recorder.most <= AT_ONCE


def test_a_line_with_keys_is_another_command() -> None:
    assert parse(["a@x", "", "SCRAM-SHA-256", "4096", "c2FsdA==", "c3Q=", "c3Y="]) == (
        "put_account_keys",
        {
            "jid": "a@x", "hash": "sha-256", "iterations": 4096,
            "salt": "c2FsdA==", "stored_key": "c3Q=", "server_key": "c3Y=",
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (["a@x", "p", "sha-256", "1", "a", "b", "c"], "both a password and keys"),
        (["a@x", "", "sha-256", "many", "a", "b", "c"], 'iterations "many" is not a number'),
        (["a@x", "p", "x"], "3 columns; there are 2 with a password and 7 with keys"),
        (["a@x", ""], "neither a password nor keys"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(row: list[str], fault: str) -> None:
    with pytest.raises(BadLine, match=fault):
        parse(row)
