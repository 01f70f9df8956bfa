"""What a gateway on this machine says and hears over the socket, decided by its call."""

import asyncio
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from joblet.api.internal import executor_pb2
from joblet.common import framed, unixsock
from joblet.executor.locallines import NAME, TICKET_BYTES, LocalLines
from joblet.executor.server_root_test import last_sequence
from joblet.executor.testing_node import TIMEOUT_SECONDS, NodeProcesses, node_processes, spec

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcesses]:
    with node_processes(tmp_path_factory.mktemp("jbtest-lines")) as started:
        yield started


@asynccontextmanager
async def followed(
    node: NodeProcesses, after: int, certificate: str = "gateway"
) -> AsyncIterator[tuple[Any, socket.socket]]:
    """A call whose ticket came by the socket, too."""
    ticket = secrets.token_hex(TICKET_BYTES // 2)
    async with asyncio.timeout(TIMEOUT_SECONDS), node.client(certificate) as stub:
        with unixsock.connect(node.directory / "state" / NAME, socket.SOCK_STREAM, timeout_seconds=0) as sock:
            unixsock.send(sock, ticket.encode())
            call: Any = stub.Follow()
            await call.write(executor_pb2.FollowRequest(after=after, ticket=ticket))
            await call.initial_metadata()
            yield call, sock


async def hear(line: framed.Line) -> executor_pb2.FollowResponse:
    message = await line.read()
    assert message is not None
    return executor_pb2.FollowResponse.FromString(message)


def test_orders_answers_and_events(node: NodeProcesses) -> None:
    async def scenario() -> None:
        jobs = [spec("true") for _ in range(5)]
        async with followed(node, await last_sequence(node)) as (call, sock):
            assert sock.recv(4) == framed.EMPTY
            line = await framed.Line.over(sock.dup())
            orders = [executor_pb2.JobOrder(spec=job) for job in jobs]
            await line.write(executor_pb2.FollowRequest(orders=orders).SerializeToString())
            answered: set[str] = set()
            ended: set[str] = set()
            while len(ended) < len(jobs):
                heard = await hear(line)
                answered |= {answer.job_id for answer in heard.answers if answer.job.status == "INITIALIZING"}
                ended |= {event.job_id for event in heard.events if event.ended.status == "COMPLETED"}
            assert answered == ended == {job.job_id for job in jobs}
            call.cancel()
            assert await line.read() is None
            line.close()

    asyncio.run(scenario())


def test_a_refusal_comes_by_the_call_and_ends_the_socket(node: NodeProcesses) -> None:
    async def scenario() -> None:
        async with followed(node, await last_sequence(node) + 1) as (call, sock):
            with pytest.raises(grpc.aio.AioRpcError) as beyond:
                await call.read()
            assert beyond.value.code() is grpc.StatusCode.OUT_OF_RANGE
            assert sock.recv(4) == framed.EMPTY
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""

    asyncio.run(scenario())


@pytest.mark.parametrize("certificate", ["node", "admin-client"])
def test_a_ticket_gives_no_right(node: NodeProcesses, certificate: str) -> None:
    async def scenario() -> None:
        async with followed(node, 0, certificate) as (call, sock):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(BlockingIOError):
                sock.recv(1)

    asyncio.run(scenario())


def test_nonsense_ends_the_call(node: NodeProcesses) -> None:
    async def scenario() -> None:
        async with followed(node, await last_sequence(node)) as (call, sock):
            assert sock.recv(4) == framed.EMPTY
            sock.send(b"\0\0\0\4\xff\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""

    asyncio.run(scenario())


def test_a_killed_executor_ends_both(node: NodeProcesses) -> None:
    async def scenario() -> None:
        async with followed(node, await last_sequence(node)) as (call, sock):
            assert sock.recv(4) == framed.EMPTY
            node.executor.end(signal.SIGKILL)
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
        node.start_executor()
        async with followed(node, await last_sequence(node)) as (_, sock):
            assert sock.recv(4) == framed.EMPTY

    asyncio.run(scenario())


def test_another_user_gets_no_further_than_the_socket(tmp_path: Path) -> None:
    """Were the file open to him."""

    async def scenario() -> None:
        with closing(LocalLines(directory)) as lines:
            (directory / NAME).chmod(0o666)
            command = [sys.executable, "-c", STRANGER, str(directory / NAME), ticket]
            stranger = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            heard, _ = await stranger.communicate()
            assert (heard, stranger.returncode) == (b"b''\n", 0)
            assert lines.take(ticket) is None

    ticket = secrets.token_hex(TICKET_BYTES // 2)
    with tempfile.TemporaryDirectory(prefix="jbtest") as name:
        directory = Path(name)
        directory.chmod(0o755)
        asyncio.run(scenario())


STRANGER = """
import os, socket, sys
os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as executor:
    executor.connect(sys.argv[1])
    try:
        executor.send(sys.argv[2].encode())
        print(executor.recv(1))
    except ConnectionError:
        print(b"")
"""
