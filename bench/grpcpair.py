"""What gRPC takes for moving a file to somebody: one process streams it over mutual TLS as raw bytes, in messages as
large as those of a log, with nothing decoded or counted; another receives it."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
from tlspair import Sender

MESSAGE_BYTES = 512 * 1024
METHOD = "/bench.Pair/Send"
# As rnx has them; the other side's are grpc's own.
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.max_frame_size", 1 << 20))


@contextlib.contextmanager
def sender(file: Path, certificates: Path) -> Iterator[Sender]:
    """The process for `file`, until the end of the context."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(file, certificates, there))
    process.start()
    try:
        port = here.recv()
        yield Sender(process.pid or 0, lambda: _receive(certificates, port))
    finally:
        process.terminate()
        process.join()


def _receive(certificates: Path, port: int) -> int:
    credentials = grpc.ssl_channel_credentials(*certificate_files(certificates, "client"))
    with grpc.secure_channel(f"localhost:{port}", credentials, options=OPTIONS) as channel:
        stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(METHOD)
        return sum(map(len, stream(b"")))


def _serve(file: Path, certificates: Path, port: Connection) -> None:
    asyncio.run(_serving(file, certificates, port))


async def _serving(file: Path, certificates: Path, port: Connection) -> None:
    async def send(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        with file.open("rb", buffering=0) as source:
            while message := source.read(MESSAGE_BYTES):
                await context.write(message)

    service, _, name = METHOD.lstrip("/").rpartition("/")
    await serve(port, certificates, service, {name: grpc.unary_stream_rpc_method_handler(send)})


async def serve(
    port: Connection, certificates: Path, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
) -> None:
    """A service on a port of its own, which it tells, until it is cancelled; its callers need a certificate."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    ca, key, certificate = certificate_files(certificates, "gateway")
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    port.send(server.add_secure_port("localhost:0", credentials))
    await server.start()
    await server.wait_for_termination()


def certificate_files(certificates: Path, name: str) -> tuple[bytes, bytes, bytes]:
    """The authority's certificate, the key and the certificate of `name`."""
    ca, key, certificate = (
        (certificates / file).read_bytes() for file in ("ca-cert.pem", f"{name}-key.pem", f"{name}-cert.pem")
    )
    return ca, key, certificate
