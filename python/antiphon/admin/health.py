# SPDX-License-Identifier: Apache-2.0
"""The HTTP application of a node: liveness, readiness, metrics, and host-meta (XEP-0156)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from xml.sax.saxutils import quoteattr

from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from antiphon.metrics.export import CONTENT_TYPE, Meters, classic
from antiphon.metrics.names import HTTP_REQUESTS

PATHS = frozenset(
    ("/livez", "/readyz", "/metrics", "/.well-known/host-meta", "/.well-known/host-meta.json")
)
WEBSOCKET = "urn:xmpp:alt-connections:websocket"


class Status(Struct, frozen=True, kw_only=True):
    """Whether clients should be sent here, and what stands against it."""

    is_ready: bool
    state: str
    """starting, ready, draining or stopped."""


class View(Struct, frozen=True, kw_only=True):
    """What the application shows; asked anew for every request."""

    status: Callable[[], Status]
    core_metrics: Callable[[], str]
    websocket_urls: Callable[[], Mapping[str, str]]
    """By served domain, those that have one."""


def application(view: View, meters: Meters) -> Starlette:
    """`/livez`, `/readyz`, `/metrics`, `/.well-known/host-meta` and `.json`."""
    pages = _Pages(view, meters)
    routes = [
        Route("/livez", pages.live),
        Route("/readyz", pages.ready),
        Route("/metrics", pages.metrics),
        Route("/.well-known/host-meta", pages.host_meta),
        Route("/.well-known/host-meta.json", pages.host_meta_json),
    ]
    return Starlette(routes=routes)


def count_answer(meters: Meters, path: str, status: int) -> None:
    """Counts an answer; paths that are not ours count as `other`."""
    known = path.rstrip("/") in PATHS
    meters.count(HTTP_REQUESTS, path if known else "other", str(status))


class _Pages:
    def __init__(self, view: View, meters: Meters) -> None:
        self._view = view
        self._meters = meters

    async def live(self, _request: Request) -> Response:
        """The loop turns: that is all a restart could mend."""
        return JSONResponse({"status": "ok"}, headers=_UNCACHED)

    async def ready(self, _request: Request) -> Response:
        """503 while the node starts or drains."""
        status = self._view.status()
        code = 200 if status.is_ready else 503
        return JSONResponse({"status": status.state}, code, headers=_UNCACHED)

    async def metrics(self, _request: Request) -> Response:
        """Both halves in one text."""
        text = classic(self._view.core_metrics()) + self._meters.text()
        return Response(text, headers={**_UNCACHED, "content-type": CONTENT_TYPE})

    async def host_meta(self, request: Request) -> Response:
        """XRD (XEP-0156 #http)."""
        url = self._url(request)
        if url is None:
            return PlainTextResponse("nothing is announced for this host\n", 404, headers=_OPEN)
        link = f"<Link rel={quoteattr(WEBSOCKET)} href={quoteattr(url)}/>"
        text = (
            "<?xml version='1.0' encoding='utf-8'?>\n"
            f'<XRD xmlns="http://docs.oasis-open.org/ns/xri/xrd-1.0">\n  {link}\n</XRD>\n'
        )
        return Response(text, media_type="application/xrd+xml", headers=_OPEN)

    async def host_meta_json(self, request: Request) -> Response:
        """JRD (XEP-0156 #http)."""
        url = self._url(request)
        if url is None:
            return JSONResponse({"links": []}, 404, headers=_OPEN)
        return JSONResponse({"links": [{"rel": WEBSOCKET, "href": url}]}, headers=_OPEN)

    def _url(self, request: Request) -> str | None:
        """For the domain that was asked for; a node of one domain answers for any name."""
        urls = self._view.websocket_urls()
        domain = (request.url.hostname or "").lower().rstrip(".")
        if domain in urls:
            return urls[domain]
        return next(iter(urls.values())) if len(urls) == 1 else None


_UNCACHED = {"cache-control": "no-store"}
# Web clients of any origin look it up (XEP-0156 #http).
_OPEN = {"access-control-allow-origin": "*", "cache-control": "max-age=300"}
