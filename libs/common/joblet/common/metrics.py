"""Prometheus metrics and probes of a service over plain HTTP: /metrics, /healthz (alive) and /readyz (503 and why not).

REGISTRY is the process's one registry, with the process's own figures (CPU, memory, open files) in it. The server
answers from threads of its own, so a busy event loop does not hide the metrics that would show it.
"""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from joblet.common import log
from joblet.common.errors import StartError
from joblet.common.version import VERSION
from joblet.common.yamlschema import split_address

__all__ = ["REGISTRY", "MetricsServer", "start_http"]

REQUEST_TIMEOUT_SECONDS = 10.0
MAX_CONNECTIONS = 256  # a thread each; one more is closed at once, so that silent clients cost bounded memory
BACKLOG = 128  # socketserver's 5 makes clients that come together wait for a second (a SYN sent again)

_log = log.get_logger(__name__)

Gauge("joblet_build_info", "1, with the version of the running service.", ["version"]).labels(VERSION).set(1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = BACKLOG
    # SO_REUSEADDR only: a port that somebody listens on is still refused (socket(7)).
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, ready: Callable[[], str | None]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.registry = registry
        self.ready = ready
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()  # no thread was started that would
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is not worth a line; a handler that failed is a fault of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            _log.exception("metrics request failed")

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up the host's name in DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_TIMEOUT_SECONDS

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(self.server.registry), content_type)
        elif path == "/healthz":
            self._answer(200, b"ok\n")
        elif path == "/readyz":
            reason = self.server.ready()
            self._answer(200, b"ok\n") if reason is None else self._answer(503, f"{reason}\n".encode())
        else:
            self._answer(404, b"not found; there is /metrics, /healthz and /readyz\n")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes every few seconds are not worth a line each."""


class MetricsServer:
    """A running server; `port` is the one really listened on, also when 0 was asked for."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def start_http(listen: str, registry: CollectorRegistry, ready: Callable[[], str | None]) -> MetricsServer:
    """Serves `registry` at `listen` ("host:port"); `ready` returns None or what is missing, and is called from threads.

    Raises StartError naming the address if it cannot be listened on.
    """
    try:
        return MetricsServer(_Server(split_address(listen), registry, ready))
    except OSError as error:
        raise StartError(f"cannot listen on {listen} for metrics: {(error.strerror or str(error)).lower()}") from error
