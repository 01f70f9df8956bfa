"""What the way of a job through a gateway and a node takes when nothing is at its end: a client's two calls over mutual
TLS, an order and two messages back over one long call between two processes, all of it in grpc.aio as in our services,
with no role, no store, no limit and no process started. No start can take less than this and the namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import grpc
from grpcpair import certificate_files, serve

SERVICE = "bench.Empty"
ACCEPTED, ENDED = b"a", b"e"  # the first byte of what the node says, before the order as it was

Context = grpc.aio.ServicerContext[bytes, bytes]


@contextlib.contextmanager
def empty_services(certificates: Path) -> Iterator[Callable[[], None]]:
    """A gateway and a node until the end of the context; the step is one job that is nothing."""
    with (
        _process(_node, certificates) as node,
        _process(_gateway, certificates, node) as gateway,
        grpc.secure_channel(f"localhost:{gateway}", _client_credentials(certificates, "client")) as channel,
    ):
        run: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Run")
        wait: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Wait")
        numbers = itertools.count()

        def job() -> None:
            wait(run(b"%036d" % next(numbers), timeout=60), timeout=60)

        yield job


@contextlib.contextmanager
def _process(main: Callable[..., Any], certificates: Path, *arguments: int) -> Iterator[int]:
    """The port that it serves."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process: SpawnProcess = context.Process(target=_run, args=(main, there, certificates, *arguments))
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def _run(main: Callable[..., Any], port: Connection, certificates: Path, *arguments: int) -> None:
    asyncio.run(main(port, certificates, *arguments))


async def _node(port: Connection, certificates: Path) -> None:
    async def follow(requests: AsyncIterator[bytes], context: Context) -> None:
        async for order in requests:
            await context.write(ACCEPTED + order)
            await context.write(ENDED + order)

    await serve(port, certificates, SERVICE, {"Follow": grpc.stream_stream_rpc_method_handler(follow)})


async def _gateway(port: Connection, certificates: Path, node: int) -> None:
    loop = asyncio.get_running_loop()
    said: dict[bytes, asyncio.Future[None]] = {}
    ended: dict[bytes, asyncio.Future[None]] = {}
    channel = grpc.aio.secure_channel(f"localhost:{node}", _client_credentials(certificates, "gateway"))
    call: Any = channel.stream_stream(f"/{SERVICE}/Follow")()

    async def listen() -> None:
        async for message in call:
            said.pop(message).set_result(None)

    async def run(order: bytes, _: Context) -> bytes:
        accepted, ended[order] = loop.create_future(), loop.create_future()
        said.update({ACCEPTED + order: accepted, ENDED + order: ended[order]})
        await call.write(order)
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
    await serve(port, certificates, SERVICE, methods)
    await listening


def _client_credentials(certificates: Path, name: str) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(*certificate_files(certificates, name))
