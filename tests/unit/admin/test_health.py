"""The HTTP pages of a node, through the adapter that the core's requests take."""

import json
from dataclasses import dataclass, field
from typing import cast

from antiphon._core import HttpRequest
from antiphon.admin.asgi import Gateway, HttpAnswer, Message, Receive, Send
from antiphon.admin.health import Status, View, application, count_answer
from antiphon.metrics import names
from antiphon.metrics.export import Meters


@dataclass
class Asked:
    """What the core hands over."""

    path: str
    method: str = "GET"
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("host", "a.example:5281")])
    body: bytes = b""
    peer: str = "127.0.0.1:40000"
    is_secure: bool = True


URLS = {"a.example": "wss://a.example:5281/ws", "b.example": "wss://b.example:5281/ws"}


class Node:
    def __init__(self) -> None:
        self.meters = Meters()
        self.status = Status(is_ready=True, state="ready")
        self.urls = dict(URLS)
        view = View(
            status=lambda: self.status,
            core_metrics=lambda: "# TYPE antiphon_sessions gauge\nantiphon_sessions 3\n# EOF\n",
            websocket_urls=lambda: self.urls,
        )
        app = application(view, self.meters)
        self.gateway = Gateway(app, 5, lambda path, status: count_answer(self.meters, path, status))

    async def get(self, path: str, **more: object) -> HttpAnswer:
        asked = Asked(path)
        for name, value in more.items():
            setattr(asked, name, value)
        return await self.gateway(cast("HttpRequest", asked))


async def test_a_node_that_turns_is_live() -> None:
    answer = await Node().get("/livez")
    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})


async def test_a_node_that_drains_is_not_ready() -> None:
    node = Node()
    assert (await node.get("/readyz")).status == 200
    node.status = Status(is_ready=False, state="draining")
    answer = await node.get("/readyz")
    assert (answer.status, json.loads(answer.body)) == (503, {"status": "draining"})


async def test_metrics_show_both_halves_in_one_text() -> None:
    node = Node()
    await node.get("/livez")
    answer = await node.get("/metrics")
    text = answer.body.decode()
    assert "antiphon_sessions 3\n" in text
    assert 'antiphon_http_requests_total{path="/livez",status="200"} 1' in text
    assert "# EOF" not in text
    assert ("content-type", "text/plain; version=0.0.4; charset=utf-8") in answer.headers


async def test_host_meta_names_the_websocket_of_the_domain_that_was_asked_for() -> None:
    node = Node()
    answer = await node.get("/.well-known/host-meta")
    assert b'href="wss://a.example:5281/ws"' in answer.body
    assert ("access-control-allow-origin", "*") in answer.headers
    answer = await node.get("/.well-known/host-meta.json", headers=[("host", "B.example")])
    assert json.loads(answer.body)["links"] == [
        {"rel": "urn:xmpp:alt-connections:websocket", "href": "wss://b.example:5281/ws"}
    ]


async def test_host_meta_of_a_strange_host_is_not_found() -> None:
    answer = await Node().get("/.well-known/host-meta", headers=[("host", "evil.example")])
    assert answer.status == 404


async def test_a_node_of_one_domain_answers_for_any_name() -> None:
    node = Node()
    del node.urls["b.example"]
    answer = await node.get("/.well-known/host-meta.json", headers=[("host", "127.0.0.1:5281")])
    assert json.loads(answer.body)["links"][0]["href"] == "wss://a.example:5281/ws"


async def test_an_unknown_path_is_not_found_and_counted_as_other() -> None:
    node = Node()
    assert (await node.get("/etc/passwd")).status == 404
    assert node.meters.value(names.HTTP_REQUESTS, "other", "404") == 1


async def test_a_method_that_a_page_does_not_have_is_refused() -> None:
    assert (await Node().get("/livez", method="POST", body=b"x")).status == 405


async def test_a_head_has_no_body() -> None:
    answer = await Node().get("/livez", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


async def run(app: object, deadline_s: float = 5) -> HttpAnswer:
    gateway = Gateway(cast("type[object]", app), deadline_s, lambda *_: None)  # type: ignore[arg-type]
    return await gateway(cast("HttpRequest", Asked("/a%20b", query="x=1", body=b"hello")))


async def test_the_application_sees_the_whole_request() -> None:
    seen: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        seen.extend([scope, await receive()])
        await send(
            {
                "type": "http.response.start",
                "status": 201,
                "headers": [(b"content-length", b"9"), (b"x", b"y")],
            }
        )
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    answer = await run(app)
    assert answer == HttpAnswer(201, [("x", "y")], b"ab")
    assert seen[0]["path"] == "/a b"
    assert seen[0]["raw_path"] == b"/a%20b"
    assert seen[0]["query_string"] == b"x=1"
    assert seen[0]["client"] == ("127.0.0.1", 40000)
    assert seen[1]["body"] == b"hello"


async def test_an_application_that_fails_is_answered_500() -> None:
    async def app(_scope: Message, _receive: Receive, _send: Send) -> None:
        raise ValueError("x")

    assert (await run(app)).status == 500


async def test_an_application_without_an_answer_is_answered_500() -> None:
    async def app(_scope: Message, _receive: Receive, _send: Send) -> None:
        return

    assert (await run(app)).status == 500


async def test_an_application_that_takes_too_long_is_answered_504() -> None:
    async def app(_scope: Message, receive: Receive, _send: Send) -> None:
        await receive()
        await receive()

    assert (await run(app, 0.01)).status == 504
