# SPDX-License-Identifier: Apache-2.0
"""Log records: events with fields, and no addresses unless asked for."""

import io
import json
import logging
import sys

import pytest

from antiphon._core import Jid
from antiphon.config.schema import Log
from antiphon.node.log import JsonFormatter, TextFormatter, configure, timestamp


def record(
    level: int = logging.INFO, message: str = "stream closed", **fields: object
) -> logging.LogRecord:
    made = logging.LogRecord("antiphon.test", level, "f", 1, message, None, None)
    vars(made).update(fields)
    return made


def _with(field: str, value: object) -> logging.LogRecord:
    made = record()
    vars(made)[field] = value
    return made


def test_a_record_is_one_json_object_with_its_fields() -> None:
    document = json.loads(
        JsonFormatter(shows_jids=False).format(record(host="a", count=3, ok=None))
    )
    assert (document["event"], document["level"]) == ("stream closed", "info")
    assert (document["host"], document["count"], document["ok"]) == ("a", 3, None)
    assert document["time"].endswith("Z")


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("jid", "romeo@a.example/x", "*@a.example"),
        ("frm", Jid("romeo@a.example"), "*@a.example"),
        ("whoever", Jid("romeo@a.example"), "*@a.example"),
        ("to", "a.example", "a.example"),
        ("host", "a.example", "a.example"),
        ("jid", [Jid("romeo@a.example")], ["*@a.example"]),
    ],
)
def test_addresses_of_users_are_shortened_above_debug(
    field: str, value: object, shown: object
) -> None:
    assert json.loads(JsonFormatter(shows_jids=False).format(_with(field, value)))[field] == shown


def test_addresses_are_whole_at_debug_or_when_turned_on() -> None:
    whole = "romeo@a.example/x"
    asked = json.loads(JsonFormatter(shows_jids=True).format(record(jid=whole)))
    debug = json.loads(JsonFormatter(shows_jids=False).format(record(logging.DEBUG, jid=whole)))
    assert asked["jid"] == debug["jid"] == whole


def test_a_field_cannot_replace_what_every_record_has() -> None:
    made = record(event="forged", logger="y", time="never")
    vars(made)["level"] = "x"
    document = json.loads(JsonFormatter(shows_jids=False).format(made))
    assert (document["event"], document["level"]) == ("stream closed", "info")
    assert document["logger"] == "antiphon.test"


def test_a_fault_has_its_traceback() -> None:
    made = record(logging.ERROR, "handler failed")
    try:
        raise ValueError("x")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: x" in json.loads(JsonFormatter(shows_jids=False).format(made))["trace"]
    assert "ValueError: x" in TextFormatter(shows_jids=False).format(made)


def test_text_cannot_be_used_to_forge_another_line() -> None:
    text = TextFormatter(shows_jids=False).format(record(name_given="x\n12:00:00 info forged"))
    assert "\n" not in text
    assert "\x1b" not in TextFormatter(shows_jids=False).format(record(message="a\x1b[2J"))


def test_a_file_gets_json_and_the_level_holds() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        configure(Log(level="warning"), stream)
        configure(Log(level="warning"), stream)
        logging.getLogger("antiphon.test").info("nothing")
        logging.getLogger("antiphon.test").warning("once")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["once"]


def test_the_time_is_in_utc_with_milliseconds() -> None:
    assert timestamp(0.1239) == "1970-01-01T00:00:00.123Z"
