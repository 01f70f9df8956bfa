"""What the way of a job through a gateway and a node of the same machine takes when nothing is at its end: a client's
two calls over mutual TLS to a process of grpc.aio, an order and two messages back between that and another process over
a unix socket, as with our services, with no role, no store, no limit and no process started. No start can take less
than this and the namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import grpc
from grpcpair import certificate_files, serve

from joblet.common.framed import Line

SERVICE = "bench.Empty"
ACCEPTED, ENDED = b"a", b"e"  # the first byte of what the node says, before the order as it was

Context = grpc.aio.ServicerContext[bytes, bytes]
Main = Callable[..., Coroutine[Any, Any, None]]


@contextlib.contextmanager
def empty_services(certificates: Path) -> Iterator[Callable[[], None]]:
    """A gateway and a node until the end of the context; the step is one job that is nothing."""
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="joblet-bench-"))) / "node.sock"
        stack.enter_context(_process(_node, path))
        port = stack.enter_context(_process(_gateway, certificates, path))
        credentials = _client_credentials(certificates, "client")
        channel = stack.enter_context(grpc.secure_channel(f"localhost:{port}", credentials))
        run: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Run")
        wait: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Wait")
        numbers = itertools.count()

        def job() -> None:
            wait(run(b"%036d" % next(numbers), timeout=60), timeout=60)

        yield job


@contextlib.contextmanager
def _process(main: Main, *arguments: Path) -> Iterator[int]:
    """What it says when it can be used: the port, if it has one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process: SpawnProcess = context.Process(target=_run, args=(main, there, *arguments))
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def _run(main: Main, ready: Connection, *arguments: Path) -> None:
    asyncio.run(main(ready, *arguments))


async def _node(ready: Connection, path: Path) -> None:
    async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        while (order := await line.read()) is not None:
            await line.write(ACCEPTED + order)
            await line.write(ENDED + order)

    server = await asyncio.start_unix_server(follow, path)
    ready.send(0)
    await server.serve_forever()


async def _gateway(ready: Connection, certificates: Path, path: Path) -> None:
    loop = asyncio.get_running_loop()
    said: dict[bytes, asyncio.Future[None]] = {}
    ended: dict[bytes, asyncio.Future[None]] = {}
    line = Line(*await asyncio.open_unix_connection(path))

    async def listen() -> None:
        while (message := await line.read()) is not None:
            said.pop(message).set_result(None)

    async def run(order: bytes, _: Context) -> bytes:
        accepted, ended[order] = loop.create_future(), loop.create_future()
        said.update({ACCEPTED + order: accepted, ENDED + order: ended[order]})
        await line.write(order)
        await accepted
        return order

    async def wait(order: bytes, _: Context) -> bytes:
        await ended.pop(order)
        return order

    listening = asyncio.create_task(listen())
    handlers = {"Run": run, "Wait": wait}
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(handler) for name, handler in handlers.items()
    }
    await serve(ready, certificates, SERVICE, methods)
    await listening


def _client_credentials(certificates: Path, name: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(*certificate_files(certificates, name))
