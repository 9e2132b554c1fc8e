# SPDX-License-Identifier: Apache-2.0
"""Runs slixmpp's own integration tests against a server at a given address.

Usage: run.py FOLDER ADDRESS [TEST…]; FOLDER holds slixmpp's `itests`. Without tests it lists
what there is. Writes one JSON object a line: {"id", "outcome", "text"}. The tests know only
the ports 5222 and 5223 and find the server by DNS; here every name resolves to ADDRESS.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slixmpp.xmlstream import xmlstream

SECONDS = 20.0
PORTS = {"xmpps-client": 5223, "xmpp-client": 5222}
"""What SRV records of the domain would say."""


class TooLong(Exception):
    """A test has not come to an end."""


def resolve_all_to(address: str) -> None:
    """Replaces the DNS look-ups of slixmpp, also where a test names a host itself."""

    async def resolve(
        host: str, port: int, services: list[str] | None = None, **_: Any
    ) -> list[tuple[str, str, str, int]]:
        return [(name, host, address, PORTS[name]) for name in services or []]

    xmlstream.resolve = resolve  # type: ignore[attr-defined]
    loop_class = asyncio.base_events.BaseEventLoop
    connect = loop_class.create_connection

    async def create_connection(
        self: asyncio.BaseEventLoop, factory: Any, host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        return await connect(self, factory, host and address, port, **more)

    loop_class.create_connection = create_connection  # type: ignore[method-assign, assignment]


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Every test case of a suite."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def load(folder: Path) -> dict[str, unittest.TestCase]:
    """Every test by its id without the package."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    found = {}
    for path in sorted(Path("itests").glob("test_*.py")):
        module = importlib.import_module(f"itests.{path.stem}")
        for case in flatten(module.suite):
            found[case.id().removeprefix("itests.")] = case
    return found


def run(case: unittest.TestCase) -> tuple[str, str]:
    """(ok, failed or skipped; the reason)."""
    result = unittest.TestResult()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        case.run(result)
    except TooLong:
        return "failed", f"no end after {SECONDS} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    problems = result.errors + result.failures
    if problems:
        return "failed", problems[0][1]
    if result.skipped:
        return "skipped", result.skipped[0][1]
    return "ok", ""


def stop(*_: object) -> None:
    """What the alarm does: most of these tests wait without a limit."""
    raise TooLong(f"no end after {SECONDS} s")


def main() -> None:
    """Lists or runs."""
    signal.signal(signal.SIGALRM, stop)
    folder, address, *wanted = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    resolve_all_to(address)
    cases = load(Path(folder))
    if not wanted:
        for name in cases:
            print(json.dumps({"id": name, "outcome": "listed", "text": ""}))
        return
    for name in wanted:
        outcome, text = run(cases[name])
        print(json.dumps({"id": name, "outcome": outcome, "text": text}), flush=True)


if __name__ == "__main__":
    main()
