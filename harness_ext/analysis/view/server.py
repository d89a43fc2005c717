"""Serves pages on the loopback interface: read-only, behind a secret in the address, and to this machine's names alone.

The pages of other sites that the same browser shows cannot read what is served here, since they do not know the secret,
and not even if their name is made to lead to this machine, since requests with another name are refused.
"""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness_ext import __version__

NAMES = ("127.0.0.1", "localhost")
HTML, TEXT, SCRIPT = "text/html", "text/plain", "text/javascript"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    body: the text.
    kind: its media type. Default HTML.
    status: the status. Default 200.
    headers: further headers.
    """

    body: str
    kind: str = HTML
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


NOT_FOUND = Answer("There is nothing here.\n", TEXT, HTTPStatus.NOT_FOUND)
Route = Callable[[str, str], Answer]
"""Answers a request, given the path below the secret and the query."""


class Server:
    """A server on 127.0.0.1.

    route: answers requests; called by several threads.
    port: the port. Default 0: any free one.
    """

    def __init__(self, route: Route, port: int = 0) -> None:
        secret = secrets.token_urlsafe(16)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version = f"harness-ext/{__version__}"
            sys_version = ""
            timeout = 60  # seconds for which an idle connection stays open

            def handle(self) -> None:
                with suppress(ConnectionError):  # browsers leave while they are answered, and between two requests
                    super().handle()

            def do_GET(self) -> None:
                self._send(self._answer())

            def do_HEAD(self) -> None:
                self._send(self._answer())

            def _answer(self) -> Answer:
                hosts = self.headers.get_all("Host") or []
                if len(hosts) != 1 or hosts[0].partition(":")[0] not in NAMES:
                    return Answer("This server answers to 127.0.0.1 alone.\n", TEXT, HTTPStatus.FORBIDDEN)
                path, _, query = self.path.partition("?")
                first, slash, rest = path.removeprefix("/").partition("/")
                if not slash or not secrets.compare_digest(first.encode(), secret.encode()):
                    return NOT_FOUND
                try:
                    return route(rest, query)
                except Exception:
                    traceback.print_exc()
                    failed = "The page could not be made. The terminal says why.\n"
                    return Answer(failed, TEXT, HTTPStatus.INTERNAL_SERVER_ERROR)

            def _send(self, answer: Answer) -> None:
                body = answer.body.encode("utf-8", "replace")
                self.send_response(answer.status)
                for name, value in {**HEADERS, **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Print nothing: addresses contain the secret."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="harness-ext view", daemon=True)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/{secret}/"

    def start(self) -> None:
        """Answer requests from now on, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more requests."""
        self._server.shutdown()
        self._server.server_close()
