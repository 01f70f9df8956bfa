import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter

from joblet.common.errors import StartError
from joblet.common.metrics import REGISTRY, MetricsServer, start_http
from joblet.common.version import VERSION


@contextmanager
def serving(
    registry: CollectorRegistry, ready: Callable[[], str | None] = lambda: None, listen: str = "127.0.0.1:0"
) -> Iterator[MetricsServer]:
    server = start_http(listen, registry, ready)
    try:
        yield server
    finally:
        server.stop()


def get(server: MetricsServer, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}{path}", timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def answers(server: MetricsServer) -> bool:
    """Whether it does not close the connection at once."""
    try:
        return get(server, "/healthz") == (200, "ok\n")
    except OSError:
        return False


def test_metrics_in_the_text_format() -> None:
    registry = CollectorRegistry()
    Counter("jbtest_things", "Things.", registry=registry).inc(3)
    with serving(registry) as server:
        status, body = get(server, "/metrics?x=1")
    assert status == 200
    assert "jbtest_things_total 3.0\n" in body


def test_the_process_registry_knows_process_and_version() -> None:
    with serving(REGISTRY) as server:
        _, body = get(server, "/metrics")
    assert "process_resident_memory_bytes" in body
    assert f'joblet_build_info{{version="{VERSION}"}} 1.0' in body


def test_probes() -> None:
    reasons: list[str | None] = [None, "database: connecting"]
    with serving(CollectorRegistry(), lambda: reasons.pop(0)) as server:
        assert get(server, "/healthz") == (200, "ok\n")
        assert get(server, "/readyz") == (200, "ok\n")
        assert get(server, "/readyz") == (503, "database: connecting\n")
        assert get(server, "/other")[0] == 404


def test_a_failing_probe_is_logged_and_the_next_request_answered(caplog: pytest.LogCaptureFixture) -> None:
    def ready() -> str | None:
        raise KeyError("broken")

    with serving(CollectorRegistry(), ready) as server:
        with pytest.raises(OSError):
            get(server, "/readyz")
        assert get(server, "/healthz")[0] == 200
    assert [record.getMessage() for record in caplog.records] == ["metrics request failed"]


def test_a_client_that_hangs_up_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving(REGISTRY) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /metr")
        assert get(server, "/healthz")[0] == 200
    assert not caplog.records


def test_ipv6() -> None:
    with serving(CollectorRegistry(), listen="[::1]:0") as server:
        assert get(server, "/healthz", host="[::1]")[0] == 200


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"^cannot listen on {listen} for metrics: address already in use$"):
            start_http(listen, CollectorRegistry(), lambda: None)


def test_silent_connections_are_bounded_and_come_in_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblet.common.metrics.MAX_CONNECTIONS", 20)
    with serving(CollectorRegistry()) as server:
        address = ("127.0.0.1", server.port)
        # A connection that finds the backlog full comes in after a second at the earliest.
        silent = [socket.create_connection(address, timeout=0.9) for _ in range(20)]
        with socket.create_connection(address, timeout=120) as one_more:
            assert one_more.recv(1) == b""
        for connection in silent:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"", "its thread is done with it"
            connection.close()
        deadline = time.monotonic() + 120
        while not answers(server):
            assert time.monotonic() < deadline, "connections that have ended still count"
