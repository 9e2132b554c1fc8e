# SPDX-License-Identifier: Apache-2.0
"""An HTTP request that crossed from the core, run through an ASGI application.

The core has read the whole body within its limit; the answer goes back whole as well, so requests
and answers are bounded in size, number and time here and there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from antiphon._core import HttpRequest

log = logging.getLogger(__name__)

MOST_UNDER_WAY = 256
MOST_ANSWER_BYTES = 16 * 1024 * 1024

# ASGI's own types: the messages are free-form by specification.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class HttpAnswer(NamedTuple):
    """What goes back to the core."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Gateway:
    """Answers the requests of the core by an application."""

    def __init__(
        self, app: Application, deadline_s: float, on_answer: Callable[[str, int], None]
    ) -> None:
        """`on_answer` is told path and status of every answer."""
        self._app = app
        self._deadline_s = deadline_s
        self._on_answer = on_answer
        self._under_way = 0

    async def __call__(self, request: HttpRequest) -> HttpAnswer:
        """The answer; 503 with too many under way, 504 after the deadline, 500 for a fault."""
        answer = await self._bounded(request)
        self._on_answer(request.path, answer.status)
        return answer

    async def _bounded(self, request: HttpRequest) -> HttpAnswer:
        if self._under_way >= MOST_UNDER_WAY:
            return plain(503, "too many requests are under way", [("retry-after", "1")])
        self._under_way += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._run(request)
        except TimeoutError:
            log.warning("http request timed out", extra={"path": request.path})
            return plain(504, "no answer in time")
        except Exception:
            log.exception("http request failed", extra={"path": request.path})
            return plain(500, "internal error")
        finally:
            self._under_way -= 1

    async def _run(self, request: HttpRequest) -> HttpAnswer:
        answer = _Answer()
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                # The whole request was there from the start: what may come now is its end, and
                # the core tells nothing of that, so this waits for the deadline at most.
                await asyncio.Event().wait()
            is_read = True
            return {"type": "http.request", "body": request.body, "more_body": False}

        await self._app(scope(request), receive, answer.send)
        return answer.whole(is_head=request.method == "HEAD")


class _Answer:
    """Gathers what the application sends."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
            self._headers = _text_headers(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            if self._status is None:
                raise RuntimeError("a body before its status")
            self._body += message.get("body", b"")
            if len(self._body) > MOST_ANSWER_BYTES:
                raise RuntimeError("the answer is too large")

    def whole(self, *, is_head: bool) -> HttpAnswer:
        """The answer; a HEAD has the headers of a GET and no body."""
        if self._status is None:
            raise RuntimeError("the application gave no answer")
        return HttpAnswer(self._status, self._headers, b"" if is_head else bytes(self._body))


def scope(request: HttpRequest) -> Message:
    """The connection scope of ASGI 3 (HTTP)."""
    host, _, port = request.peer.rpartition(":")
    client = (host.strip("[]"), int(port)) if port.isdigit() else (request.peer, 0)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https" if request.is_secure else "http",
        "path": unquote(request.path),
        "raw_path": request.path.encode("latin-1", "replace"),
        "query_string": request.query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in request.headers
        ],
        "client": client,
        "server": None,
    }


def plain(status: int, text: str, headers: Iterable[tuple[str, str]] = ()) -> HttpAnswer:
    """A line of text as an answer."""
    described = [("content-type", "text/plain; charset=utf-8"), *headers]
    return HttpAnswer(status, described, f"{text}\n".encode())


def _text_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    # The core frames the answer, so a length of the application's would be a second opinion.
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name.lower() not in (b"content-length", b"transfer-encoding", b"connection")
    ]
