# SPDX-License-Identifier: Apache-2.0
"""XEP-0156 Discovering Alternative XMPP Connection Methods: host-meta."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from email.message import Message

import pytest

from support.server import Server
from support.xml import parse

pytestmark = pytest.mark.ours("Prosody 0.12 serves none by itself")
WEBSOCKET = "urn:xmpp:alt-connections:websocket"
XRD = "http://docs.oasis-open.org/ns/xri/xrd-1.0"


async def get(
    server: Server, path: str, host: str | None = None
) -> tuple[int, Message[str, str], bytes]:
    """(status, headers, body) of an HTTPS request."""
    url = f"https://{server.address}:{server.ports.https}{path}"
    request = urllib.request.Request(url, headers={"Host": host or server.domain})
    tls = ssl.create_default_context(cafile=server.authority.ca)

    def fetch() -> tuple[int, Message[str, str], bytes]:
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)]
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=10) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    return await asyncio.to_thread(fetch)


async def test_host_meta_names_the_websocket(server: Server) -> None:
    # XEP-0156 #http, example
    status, headers, body = await get(server, "/.well-known/host-meta")
    assert status == 200
    assert "xml" in (headers.get("Content-Type") or "")
    text = body.decode().partition("?>")[2] if body.startswith(b"<?xml") else body.decode()
    links = {link.get("rel"): link.get("href") for link in parse(text.strip()).all("Link", XRD)}
    assert (links[WEBSOCKET] or "").startswith("wss://")


async def test_host_meta_json_says_the_same(server: Server) -> None:
    status, headers, body = await get(server, "/.well-known/host-meta.json")
    assert status == 200
    assert "json" in (headers.get("Content-Type") or "")
    links = {link["rel"]: link["href"] for link in json.loads(body)["links"]}
    assert links[WEBSOCKET].startswith("wss://")


@pytest.mark.parametrize("path", ["/.well-known/host-meta", "/.well-known/host-meta.json"])
async def test_browsers_of_any_origin_may_read_it(server: Server, path: str) -> None:
    # XEP-0156 #http: Access-Control-Allow-Origin
    _, headers, _ = await get(server, path)
    assert headers.get("Access-Control-Allow-Origin") == "*"
