"""Orders and events over the socket of this machine's executor, and by TLS whenever that cannot be."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from joblet.api.job_pb2 import RunJobReq, WaitJobReq
from joblet.common import unixsock
from joblet.gateway import locallines
from joblet.gateway.localstream_test import unix_sockets
from joblet.gateway.testing import TIMEOUT_SECONDS, FakeJob, FakeNode, World, world


@contextmanager
def socket_of_executor(it: World, node: FakeNode | None) -> Iterator[socket.socket]:
    """Where the gateway looks for it; `node` is the one that it belongs to."""
    with unixsock.bind(it.config.gateway.executor_socket, socket.SOCK_STREAM) as listener:
        if node is not None:
            node.lines = listener
        try:
            yield listener
        finally:
            if node is not None:
                node.lines = None


async def again(it: World) -> None:
    """The executor is started again, and followed again."""
    seen = len(it.node.followed)
    await it.node.executor_down()
    await it.node.executor_up()
    await followed(it, seen + 1)


async def followed(it: World, times: int) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while len(it.node.followed) < times:
            await asyncio.sleep(0.01)


async def at_once(node: FakeNode, job: FakeJob) -> None:
    node.started(job)
    node.ended(job, "COMPLETED", 0)


async def run(it: World, count: int = 1) -> None:
    it.node.script = at_once
    client = await it.client()

    async def one() -> str:
        job = (await client.RunJob(RunJobReq(command="true"))).job
        return str((await client.WaitJob(WaitJobReq(uuid=job.uuid))).job.status)

    assert await asyncio.gather(*(one() for _ in range(count))) == ["COMPLETED"] * count


def test_orders_and_events_by_the_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            await run(it)
            before = unix_sockets()
            with socket_of_executor(it, it.node):
                await again(it)
                await run(it, 20)
                assert it.node.followed[-1] == "socket"
            await again(it)
            await run(it)
            assert it.node.followed[-1] == "call"
            assert unix_sockets() == before

    asyncio.run(scenario())


def test_an_executor_that_is_killed_again_and_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            with socket_of_executor(it, it.node):
                for count in range(1, 6):
                    await again(it)
                    await run(it, count)
            assert "call" not in it.node.followed[1:]
            assert len(it.node.starts) == len(set(it.node.starts)) == 15

    asyncio.run(scenario())


def test_an_order_whose_answer_is_lost_is_sent_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            with socket_of_executor(it, it.node):
                await again(it)
                it.node.lose_answers = 1
                await run(it)
                assert it.node.followed[-1] == "socket"

    asyncio.run(scenario())


def test_an_executor_of_another_machine_answers_by_the_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            with socket_of_executor(it, None) as listener:
                await again(it)
                await run(it)
                assert set(it.node.followed) == {"call"}
                sock, _ = listener.accept()
                with sock:
                    assert len(sock.recv(100)) == 2 * locallines.TICKET_BYTES
                    assert sock.recv(1) == b""

    asyncio.run(scenario())


def test_why_the_call_ends_is_told_by_the_call(tmp_path: Path) -> None:
    """The node has forgotten events: the gateway compares all jobs then, and goes on."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            with socket_of_executor(it, it.node):
                await it.node.executor_down()
                it.node.followed.clear()
                it.node.first_event = 2
                it.node.events.clear()
                await it.node.executor_up()
                await run(it)
                await followed(it, 2)
                assert set(it.node.followed) == {"socket"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("first", "ways"), [(b"HTTP", ["socket", "socket"]), (b"", ["call"])], ids=["something else", "an end"]
)
def test_a_socket_that_begins_wrongly(tmp_path: Path, first: bytes, ways: list[str]) -> None:
    """With something else it is tried again; one that ends at once is not used."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            with socket_of_executor(it, it.node):
                it.node.greetings = [first]
                await again(it)
                await run(it)
                assert it.node.followed[-len(ways) :] == ways

    asyncio.run(scenario())
