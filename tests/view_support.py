"""Helpers of the tests of `view`: a viewer that serves a folder, and requests to it."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from scored_runs import make_task, manager_of

from harness_ext.analysis.scoring.task_documents import TaskSource
from harness_ext.analysis.view.pages import Pages
from harness_ext.analysis.view.server import Server
from harness_ext.analysis.view.viewer import Viewer
from harness_ext.suite.viewing import suites_below


@contextmanager
def served(named: Path) -> Iterator[str]:
    """Serve a folder, whose runs answer the task `sums`, and yield the address."""
    pages = Pages(TaskSource(), manager_of(make_task()))
    server = Server(Viewer(str(named), pages, suites_below).route)
    worker = threading.Thread(target=pages.work)
    worker.start()
    server.start()
    try:
        yield server.address
    finally:
        server.stop()
        pages.stop()
        worker.join()


def ask(address: str, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], str]:
    """Send one request, and return the status, the headers and the text of the answer; redirections are not followed.

    address: the address.
    method: the method. Default GET.
    host: the header `Host`; empty for none. Default None: that of the address.
    """
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.putrequest(method, parts.path + (f"?{parts.query}" if parts.query else ""), skip_host=True)
    if host != "":
        connection.putheader("Host", host or parts.netloc)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text
