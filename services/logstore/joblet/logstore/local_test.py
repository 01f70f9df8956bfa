"""Reading over a socket of the machine: the same output, decided by the same call."""

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import grpc
import pytest

from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.api.job_pb2 import DataChunk
from joblet.common import framed
from joblet.logstore.server_test import JOB, MEGABYTE, UNKNOWN, digest, ended_log, failure, feed
from joblet.logstore.testing import TIMEOUT_SECONDS, LogStoreProcess, eventually, logstore, writer

if TYPE_CHECKING:
    from joblet.logstore.server_test import ReadCall

MOST_IN_FLIGHT = 2 << 20  # what the socket takes (framed)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[LogStoreProcess]:
    with logstore(tmp_path) as process:
        yield process


@contextmanager
def ticket(process: LogStoreProcess, job_id: str = JOB) -> Iterator[tuple[str, socket.socket]]:
    answer, (fd,) = process.ask("stream", job_id)
    with socket.socket(fileno=fd) as receiver:
        receiver.setblocking(False)
        yield str(answer["ticket"]), receiver


def request(with_ticket: str, offset: int = 0, *, job_id: str = JOB) -> ReadLogsRequest:
    return ReadLogsRequest(job_id=job_id, offset=offset, ticket=with_ticket)


async def is_local(call: "ReadCall", receiver: socket.socket) -> bool:
    """Whether the output comes by the socket. Known as soon as the call has begun."""
    await call.initial_metadata()
    try:
        return receiver.recv(len(framed.EMPTY)) == framed.EMPTY
    except BlockingIOError:
        return False


async def take(receiver: socket.socket, content: bytearray) -> None:
    """Adds all that comes; checks that no chunk overlaps another or leaves a gap."""
    source = framed.Receiver(receiver)
    with suppress(ConnectionResetError):  # in the middle of a message, which is left out
        while (message := await source.receive()) is not None:
            chunk = DataChunk.FromString(message)
            assert chunk.offset == len(content)
            content += chunk.payload


async def received(receiver: socket.socket) -> bytes:
    content = bytearray()
    await take(receiver, content)
    return bytes(content)


def free(process: LogStoreProcess) -> None:
    eventually(lambda: (process.descriptors(), process.watches()) == ([], 0))


def test_all_output_while_it_is_written_and_nothing_of_it_by_the_call(process: LogStoreProcess) -> None:
    content = random.Random(1).randbytes(20 * MEGABYTE)

    async def main() -> None:
        async with process.client() as (_, stub):
            with ticket(process) as (own, receiver):
                call = stub.ReadLogs(request(own), timeout=TIMEOUT_SECONDS)
                assert await is_local(call, receiver)
                feeder.start()
                assert digest(await received(receiver)) == digest(content)
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK

    with process.log_files(JOB) as files, writer(files) as init:
        feeder = Thread(target=feed, args=(init, content))
        asyncio.run(main())
        feeder.join()
    free(process)
    assert process.metric("joblet_log_local_streams_total") == 1
    assert process.metric("joblet_log_bytes_sent_total") == len(content)


def test_a_ticket_that_is_not_known_here_is_passed_over(process: LogStoreProcess) -> None:
    async def main() -> None:
        async with process.client() as (_, stub):
            with ticket(process) as (own, first), ticket(process, UNKNOWN) as (others, second):
                assert await is_local(stub.ReadLogs(request(own)), first)
                assert await received(first) == b"output"
                for used in (own, others, "0" * 32):
                    call = stub.ReadLogs(request(used), timeout=TIMEOUT_SECONDS)
                    assert not await is_local(call, second)
                    assert [chunk.payload async for chunk in call] == [b"output"]
                assert await received(second) == b""

    ended_log(process, b"output")
    asyncio.run(main())


def test_refusals_come_by_the_call_and_end_the_socket(process: LogStoreProcess) -> None:
    async def main() -> None:
        async with process.client() as (_, stub):
            with ticket(process, UNKNOWN) as (own, receiver):
                call = stub.ReadLogs(request(own, job_id=UNKNOWN), timeout=TIMEOUT_SECONDS)
                assert await failure(call) == (grpc.StatusCode.NOT_FOUND, f"job not found: {UNKNOWN}")
                assert await received(receiver) == b""
            with ticket(process) as (own, receiver):
                call = stub.ReadLogs(request(own, offset=7), timeout=TIMEOUT_SECONDS)
                assert await is_local(call, receiver)
                text = "offset 7 is beyond the end of the output (6 bytes)"
                assert await failure(call) == (grpc.StatusCode.OUT_OF_RANGE, text)
                assert await received(receiver) == b""

    ended_log(process, b"output")
    asyncio.run(main())
    free(process)


def test_a_ticket_gives_no_right_to_read(process: LogStoreProcess) -> None:
    async def main() -> None:
        async with process.client("node") as (_, stub):
            with ticket(process) as (own, receiver):
                code, _ = await failure(stub.ReadLogs(request(own), timeout=TIMEOUT_SECONDS))
                assert code is grpc.StatusCode.PERMISSION_DENIED
                with pytest.raises(BlockingIOError):
                    receiver.recv(1)

    ended_log(process, b"output")
    asyncio.run(main())


def test_a_reader_that_takes_nothing_is_sent_away_and_can_read_on(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(5 * MEGABYTE)

    async def main(process: LogStoreProcess) -> None:
        async with process.client() as (_, stub):
            with ticket(process) as (own, receiver):
                stalled = stub.ReadLogs(request(own))
                text = "the reader took no output for 0.3 seconds"
                assert await is_local(stalled, receiver)
                assert await failure(stalled) == (grpc.StatusCode.DEADLINE_EXCEEDED, text)
                taken = bytearray()
                await take(receiver, taken)
            assert len(taken) <= MOST_IN_FLIGHT
            times = 1
            while len(taken) < len(content):
                with ticket(process) as (own, receiver):
                    call = stub.ReadLogs(request(own, len(taken)), timeout=TIMEOUT_SECONDS)
                    assert await is_local(call, receiver)
                    await take(receiver, taken)
                    times += await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # again, on a busy machine
            assert digest(bytes(taken)) == digest(content)
            assert process.metric("joblet_log_readers_stalled_total") == times

    with logstore(tmp_path, readerTimeout="300ms") as process:
        ended_log(process, content)
        asyncio.run(main(process))
        process.says("reader took nothing and was sent away")


def test_nothing_remains_of_readers_that_go_away(process: LogStoreProcess) -> None:
    async def main() -> None:
        with process.log_files(JOB) as files:
            os.write(files.output, b"hello")
            async with process.client() as (_, stub):
                with ticket(process) as (own, receiver):
                    call = stub.ReadLogs(request(own))
                    assert await is_local(call, receiver)
                    message = await framed.Receiver(receiver).receive()
                    assert message is not None and DataChunk.FromString(message).payload == b"hello"
                    call.cancel()
                    assert await received(receiver) == b""
                with ticket(process) as (own, receiver):
                    call = stub.ReadLogs(request(own))
                    assert await is_local(call, receiver)
                    receiver.close()
                    os.write(files.output, b"to nobody")
                    code, _ = await failure(call)
                    assert code is grpc.StatusCode.UNAVAILABLE
            await asyncio.to_thread(free, process)
            assert process.metric("joblet_log_followers") == 0

    asyncio.run(main())
