import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from joblet.common.errors import Internal
from rnx.local import ports, processes, ready, status
from rnx.local.layout import SERVICES, Layout, Ports, layout_of


@contextmanager
def answering(code: int, body: bytes = b"") -> Iterator[int]:
    """An HTTP server that answers everything so; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    return ports.pick(1, 99, ())[0]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server that is in this process, on a machine that may stop both."""
    monkeypatch.setattr(ready, "_PROBE_SECONDS", 120.0)


@pytest.fixture
def where(tmp_path: Path) -> Layout:
    layout = layout_of(tmp_path)
    layout.run.mkdir()
    layout.logs.mkdir()
    return layout


def all_at(port: int) -> Ports:
    return Ports(dict.fromkeys(SERVICES, port), dict.fromkeys(SERVICES, port))


def test_health() -> None:
    with answering(200, b"ok\n") as port:
        assert ready.health(port) == ready.Health("SERVING", "")
    with answering(503, b"no node is registered\n") as port:
        assert ready.health(port) == ready.Health("NOT_SERVING", "no node is registered")
    assert ready.health(closed_port()) == ready.Health("DOWN", "connection refused")


def test_a_service_that_does_not_start_is_named_with_its_last_error(where: Layout) -> None:
    processes.write(where.pid_file("logstore"), "1 1", "3")
    where.log("logstore").write_text("Error: old\nError: cannot listen\nHint: take another port\n")
    with pytest.raises(Internal) as raised:
        ready.wait(where, all_at(closed_port()), lambda: True)
    assert raised.value.message == "logstore does not start:\n  Error: cannot listen\n  Hint: take another port"
    assert raised.value.hint == f"the logs are in {where.logs}"


def test_a_supervisor_that_ended(where: Layout) -> None:
    where.log("supervisor").write_text("Traceback\nOSError: disk full\n")
    with pytest.raises(Internal, match="(?s)the supervisor has ended:.*disk full"):
        ready.wait(where, all_at(closed_port()), lambda: False)


def test_a_system_that_never_becomes_ready(where: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "READY_SECONDS", 0.1)
    with (
        answering(503, b"no node is registered\n") as port,
        pytest.raises(Internal, match=r"gateway is not ready after 0\.1 s: no node is registered"),
    ):
        ready.wait(where, all_at(port), lambda: True)


def test_status_of_a_service_that_is_not_ours(where: Layout) -> None:
    """Somebody else listens on the port of a service that is down."""
    from rnx.local import layout

    chosen = layout.choose_ports(where, ports.pick(1, 5, ())[0])
    layout.prepare(where, chosen)
    found = status.of(where)
    assert [row.service for row in found.services] == list(SERVICES)
    assert {(row.pid, row.health, row.reason) for row in found.services} == {(None, "DOWN", "not running")}
    assert found.services[0].metrics == f"http://127.0.0.1:{chosen.metrics['gateway']}/metrics"
    assert not found.serving
