# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and how it ends."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from antiphon import __version__
from antiphon.cli.main import main


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Shell:
    """Runs command lines in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int) or code is None
        return Ended(code or 0, printed.out, printed.err)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTIPHON_CONFIG", raising=False)
    return Shell(capsys)


def test_the_version_is_one_line(shell: Shell) -> None:
    assert shell("--version") == Ended(0, f"antiphon {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("serv",), "antiphon: No such command 'serv'."),
        (("serve", "--nonsense"), "antiphon: No such option"),
        (("account", "create"), "antiphon: Missing argument 'JID'."),
        (("account", "import", "nowhere.csv"), "antiphon: "),
        (
            ("account", "create", "a@localhost", "--password", "x", "--password-stdin"),
            "antiphon: --password and --password-stdin exclude each other",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(
    shell: Shell, arguments: tuple[str, ...], line: str
) -> None:
    ended = shell(*arguments)
    assert ended.code == 2
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("serve",), ("check",), ("account", "list", "localhost")], ids=" ".join
)
def test_a_wrong_configuration_is_one_line_for_each_mistake(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    Path("antiphon.toml").write_text("[limits]\nstanza_byte = 1\nroster_items = ''\n")
    ended = shell(*arguments)
    assert ended.code == 1
    assert ended.err.splitlines() == [
        "antiphon.toml:2: limits.stanza_byte: unknown key; did you mean stanza_bytes?",
        "antiphon.toml:3: limits.roster_items: expected a whole number, got a string",
    ]


def test_the_variable_names_the_configuration_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("other.toml").write_text("x = 1\n")
    monkeypatch.setenv("ANTIPHON_CONFIG", "other.toml")
    assert shell("check").err.startswith("other.toml:1: x: unknown key")


def test_the_example_passes_the_check_of_its_keys(shell: Shell) -> None:
    Path("antiphon.toml").write_text(shell("config", "example").out)
    assert "unknown key" not in shell("check").err


def test_the_schema_is_json(shell: Shell) -> None:
    assert json.loads(shell("config", "schema").out)["title"] == "antiphon.toml"


def test_check_reports_for_scripts(shell: Shell) -> None:
    Path("antiphon.toml").write_text("x = 1\n")
    ended = shell("check", "--json")
    document = json.loads(ended.out)
    assert ended.code == 1
    assert ended.err == ""
    assert document["ok"] is False
    assert (document["problems"][0]["line"], document["problems"][0]["key"]) == (1, "x")


def test_a_password_without_a_terminal_is_a_line_of_standard_input(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("\n")
    with (tmp_path / "empty").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        ended = shell("account", "create", "a@localhost")
    assert (ended.code, ended.err) == (1, "antiphon: the password is empty; nothing was changed\n")


def test_two_passwords_that_differ_change_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["one", "two"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))
    ended = shell("account", "create", "a@localhost")
    assert ended.err == "antiphon: the two passwords differ; nothing was changed\n"


def test_every_administrative_command_has_a_subcommand(shell: Shell) -> None:
    listed = shell("command", "--help").out
    assert "count-accounts" in listed
    assert "JID" in shell("command", "create-account", "--help").out
