# SPDX-License-Identifier: Apache-2.0
"""A node in the foreground, from its start to its end by signals.

SIGTERM and SIGINT drain and stop; a second one ends the process at once, which loses nothing that
was acknowledged, since the store commits before. SIGHUP reloads configuration and certificates.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

from antiphon.node.app import Node

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_ERROR = 1


async def serve(
    node: Node, on_ready: Callable[[Node], None], leave: Callable[[int], None] = os._exit
) -> int:
    """Runs the node until it is told to stop; the exit code. Raises NodeError.

    `leave` ends the process when a second signal asks for haste.
    """
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[bool]] = set()

    def stop(number: signal.Signals) -> None:
        if node.stop_requested.is_set():
            log.warning("stopped in haste", extra={"signal": number.name})
            leave(EXIT_ERROR)
            return
        log.info("signal received", extra={"signal": number.name})
        node.stop_requested.set()

    def reload() -> None:
        task = loop.create_task(node.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    # Before the start is done a reload has nothing to change, and the default would kill.
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await node.start()
        if not node.stop_requested.is_set():
            on_ready(node)
        await node.stop_requested.wait()
        await asyncio.gather(*reloads, return_exceptions=True)
        await node.stop(node.config.node.drain_seconds)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return EXIT_OK
