"""The floor for moving a file to somebody over TLS: one process sends it through Python's ssl, another receives it."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Sender:
    """A process that sends a file to whoever connects; `receive` takes all of it and tells how many bytes came."""

    pid: int
    receive: Callable[[], int]


@contextlib.contextmanager
def sender(file: Path, certificates: Path) -> Iterator[Sender]:
    """The process for `file`, until the end of the context."""
    client = _context(ssl.PROTOCOL_TLS_CLIENT, certificates, "client")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("spawn").Process(target=_send, args=(file, certificates, listener))
        process.start()
        try:
            yield Sender(process.pid or 0, lambda: _receive(client, listener.getsockname()[1]))
        finally:
            process.terminate()
            process.join()


def _receive(context: ssl.SSLContext, port: int) -> int:
    room, received = memoryview(bytearray(BLOCK_BYTES)), 0
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        while count := secure.recv_into(room):
            received += count
    return received


def _send(file: Path, certificates: Path, listener: socket.socket) -> None:
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificates, "gateway")
    room = memoryview(bytearray(BLOCK_BYTES))
    while True:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as secure, file.open("rb", buffering=0) as source:
            while count := source.readinto(room):
                secure.sendall(room[:count])


def _context(protocol: int, certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificates / f"{name}-cert.pem", certificates / f"{name}-key.pem")
    context.load_verify_locations(certificates / "ca-cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context
