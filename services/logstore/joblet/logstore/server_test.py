"""The logstore as a process: real files, real sockets, real TLS."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from joblet.api.internal.logstore_pb2 import DeleteLogsRequest, FindBeginningResponse, ReadLogsRequest
from joblet.api.job_pb2 import DataChunk
from joblet.common.rpc import AccessTable
from joblet.common.rpc.access import methods_of
from joblet.logstore.server import ACCESS, SERVICE
from joblet.logstore.testing import TIMEOUT_SECONDS, LogStoreProcess, eventually, logstore, send_garbage, writer

if TYPE_CHECKING:
    from joblet.api.internal.logstore_pb2_grpc import LogStoreServiceAsyncStub

    ReadCall = grpc.aio.UnaryStreamCall[ReadLogsRequest, DataChunk]

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
MEGABYTE = 1_000_000


@pytest.fixture
def process(tmp_path: Path) -> Iterator[LogStoreProcess]:
    with logstore(tmp_path) as process:
        yield process


def request(offset: int = 0, *, job_id: str = JOB, no_follow: bool = False) -> ReadLogsRequest:
    return ReadLogsRequest(job_id=job_id, offset=offset, no_follow=no_follow)


async def read(stub: "LogStoreServiceAsyncStub", offset: int = 0) -> bytes:
    """All of it; checks that no chunk overlaps another or leaves a gap."""
    received = bytearray()
    async for chunk in stub.ReadLogs(request(offset), timeout=TIMEOUT_SECONDS):
        assert chunk.offset == offset + len(received)
        received += chunk.payload
    return bytes(received)


async def failure(call: "ReadCall") -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    return caught.value.code(), caught.value.details()


def ended_log(process: LogStoreProcess, content: bytes) -> None:
    with process.log_files(JOB) as files:
        with open(files.output, "wb", closefd=False) as output:
            output.write(content)
        process.ask("finish", JOB)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_every_rpc_is_for_the_gateway_alone() -> None:
    table: AccessTable = ACCESS
    assert sorted(table) == sorted(methods_of(SERVICE))
    assert {role.value for access in table.values() for role in access.roles} == {"gateway"}


def test_sixteen_readers_joining_at_random_and_one_that_stalls(tmp_path: Path) -> None:
    """20 MB of random bytes while they are written. All share one connection, as the gateway's readers do."""
    with logstore(tmp_path, readerTimeout="1h") as process:
        _sixteen_readers_and_one_that_stalls(process)


def _sixteen_readers_and_one_that_stalls(process: LogStoreProcess) -> None:
    content = random.Random(1).randbytes(20 * MEGABYTE)
    joining = sorted(random.Random(2).randrange(len(content)) for _ in range(15))

    async def main() -> None:
        async with process.client() as (_, stub), asyncio.TaskGroup() as group:
            stalled = stub.ReadLogs(request())
            await stalled.initial_metadata()
            readers: list[asyncio.Task[bytes]] = []
            received = bytearray()
            first = stub.ReadLogs(request(), timeout=TIMEOUT_SECONDS)
            await first.initial_metadata()
            feeder.start()
            async for chunk in first:
                received += chunk.payload
                while joining and joining[0] < len(received):
                    joining.pop(0)
                    readers.append(group.create_task(read(stub)))
            results = [bytes(received), *[await reader for reader in readers]]
            assert len(results) == 16
            assert {digest(result) for result in results} == {digest(content)}
            assert not stalled.done()
            # Late, but whole: it lost nothing by standing still.
            late = b"".join([chunk.payload async for chunk in stalled])
            assert digest(late) == digest(content)

    with process.log_files(JOB) as files, writer(files) as init:
        assert init.stdin is not None
        feeder = Thread(target=feed, args=(init, content))
        asyncio.run(main())
        feeder.join()
    eventually(lambda: (process.descriptors(), process.watches()) == ([], 0))
    assert process.metric("joblet_log_followers") == 0
    assert process.metric("joblet_log_bytes_sent_total") == 17 * len(content)
    assert process.metric("joblet_log_open_total") == 1


def feed(init: "subprocess.Popen[bytes]", content: bytes) -> None:
    """In pieces of random size; then closes the pipe."""
    sizes = random.Random(3)
    assert init.stdin is not None
    with init.stdin:
        position = 0
        while position < len(content):
            size = sizes.choice((1, 100, 4096, 65536, 200_000))
            init.stdin.write(content[position : position + size])
            position += size


def test_killed_and_started_again_while_a_job_writes_nothing_is_lost(process: LogStoreProcess) -> None:
    """At random moments. The job goes on meanwhile, up to 2 MB ahead of its reader."""
    content = random.Random(4).randbytes(20 * MEGABYTE)
    # Not so late that what is on its way completes the output before the reader notices.
    kills = [random.Random(5).randrange(number * 2 * MEGABYTE, (number + 1) * 2 * MEGABYTE) for number in range(5)]
    restarts = 0
    received = bytearray()
    progress = Condition()

    def feed_ahead(init: "subprocess.Popen[bytes]") -> None:
        assert init.stdin is not None
        with init.stdin:
            for position in range(0, len(content), 50_000):
                with progress:
                    while position > len(received) + 2 * MEGABYTE:
                        assert progress.wait(TIMEOUT_SECONDS)
                init.stdin.write(content[position : position + 50_000])

    async def read_on() -> None:
        """Until the end or until the logstore is gone."""
        async with process.client() as (_, stub):
            call = stub.ReadLogs(request(len(received)), timeout=TIMEOUT_SECONDS)
            async for chunk in call:
                assert chunk.offset == len(received)
                with progress:
                    received.extend(chunk.payload)
                    progress.notify()
                if kills and len(received) > kills[0] and process.process.poll() is None:
                    kills[:] = [later for later in kills if later > len(received)]
                    process.process.kill()

    with process.log_files(JOB) as files, writer(files) as init:
        feeder = Thread(target=feed_ahead, args=(init,))
        feeder.start()
        while True:
            try:
                asyncio.run(read_on())
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert process.end(signal.SIGKILL) == -signal.SIGKILL
                restarts += 1
                process.start()
        feeder.join()
    assert restarts >= 3
    assert digest(bytes(received)) == digest(content)


def test_the_last_byte_is_there_also_when_the_job_exits_with_it(process: LogStoreProcess) -> None:
    async def one(stub: "LogStoreServiceAsyncStub", number: int) -> bytes:
        job_id = f"00000000-0000-4000-8000-{number:012}"
        with process.log_files(job_id) as files:
            call = stub.ReadLogs(request(job_id=job_id), timeout=TIMEOUT_SECONDS)
            await call.initial_metadata()
            reading, writing = os.pipe()
            job = await asyncio.create_subprocess_exec("/bin/sh", "-c", "printf x; exit", stdout=writing)
            os.close(writing)
            with writer(files, reading):
                os.close(reading)
                received = b"".join([chunk.payload async for chunk in call])
            assert await job.wait() == 0
            return received

    async def main() -> None:
        async with process.client() as (_, stub):
            for number in range(25):
                assert await one(stub, number) == b"x"

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 3000, b"\xff\x00\n"], ids=["empty", "binary", "short"])
def test_output_is_read_from_any_offset(process: LogStoreProcess, content: bytes) -> None:
    ended_log(process, content)

    async def main() -> None:
        async with process.client() as (_, stub):
            for offset in {0, len(content) // 3, len(content)}:
                assert await read(stub, offset) == content[offset:]

    asyncio.run(main())


def test_without_following_it_is_what_was_there(process: LogStoreProcess) -> None:
    async def main() -> None:
        with process.log_files(JOB) as files:
            os.write(files.output, b"hello")
            async with process.client() as (_, stub):
                call = stub.ReadLogs(request(no_follow=True), timeout=TIMEOUT_SECONDS)
                assert [chunk.payload async for chunk in call] == [b"hello"]

    asyncio.run(main())


def test_refusals_say_why(process: LogStoreProcess) -> None:
    ended_log(process, b"hello")
    expected = [
        (request(job_id=UNKNOWN), grpc.StatusCode.NOT_FOUND, f"job not found: {UNKNOWN}"),
        (request(job_id="../etc"), grpc.StatusCode.INVALID_ARGUMENT, "invalid job id: '../etc'"),
        (request(-1), grpc.StatusCode.INVALID_ARGUMENT, "offset must not be negative, got -1"),
        (request(6), grpc.StatusCode.OUT_OF_RANGE, "offset 6 is beyond the end of the output (5 bytes)"),
        (
            request(2**63 - 1),
            grpc.StatusCode.OUT_OF_RANGE,
            f"offset {2**63 - 1} is beyond the end of the output (5 bytes)",
        ),
    ]

    async def main() -> None:
        async with process.client() as (_, stub):
            for wrong, code, text in expected:
                assert await failure(stub.ReadLogs(wrong, timeout=TIMEOUT_SECONDS)) == (code, text)
        for certificate, role in (("node", "node"), ("admin-client", "admin"), ("viewer-client", "viewer")):
            async with process.client(certificate) as (_, stub):
                assert await failure(stub.ReadLogs(request(), timeout=TIMEOUT_SECONDS)) == (
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"role {role} is not allowed to perform operation read_logs",
                )

    asyncio.run(main())
    eventually(lambda: (process.descriptors(), process.watches()) == ([], 0))


def test_delete_waits_for_the_end_and_then_removes_everything(process: LogStoreProcess) -> None:
    async def delete(stub: "LogStoreServiceAsyncStub") -> tuple[grpc.StatusCode, str | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DeleteLogs(DeleteLogsRequest(job_id=JOB), timeout=TIMEOUT_SECONDS)
        return caught.value.code(), caught.value.details()

    async def main() -> None:
        async with process.client() as (_, stub):
            with process.log_files(JOB):
                assert await delete(stub) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"the output of job {JOB} is still being written",
                )
            process.ask("finish", JOB)
            await stub.DeleteLogs(DeleteLogsRequest(job_id=JOB), timeout=TIMEOUT_SECONDS)
            gone = (grpc.StatusCode.NOT_FOUND, f"job not found: {JOB}")
            assert await delete(stub) == gone
            assert await failure(stub.ReadLogs(request(), timeout=TIMEOUT_SECONDS)) == gone

    asyncio.run(main())
    assert list((process.directory / "logs").iterdir()) == []


def test_a_reader_that_takes_nothing_is_sent_away_and_can_read_on(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(30 * MEGABYTE)

    async def main(process: LogStoreProcess) -> None:
        async with process.client() as (_, stub):
            stalled = stub.ReadLogs(request())
            await stalled.initial_metadata()
            await asyncio.to_thread(eventually, lambda: process.metric("joblet_log_readers_stalled_total") == 1)
            await asyncio.to_thread(eventually, lambda: (process.descriptors(), process.watches()) == ([], 0))
            received = bytearray()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for chunk in stalled:
                    received += chunk.payload
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.details() == "the reader took no output for 0.3 seconds"
            assert 0 < len(received) < 16 * MEGABYTE
            sent_away = 1
            while len(received) < len(content):  # on a busy machine it may be too slow once more
                call = stub.ReadLogs(request(len(received)), timeout=TIMEOUT_SECONDS)
                try:
                    async for chunk in call:
                        assert chunk.offset == len(received)
                        received += chunk.payload
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    sent_away += 1
            assert digest(bytes(received)) == digest(content)
            assert process.metric("joblet_log_readers_stalled_total") == sent_away

    with logstore(tmp_path, readerTimeout="300ms") as process:
        ended_log(process, content)
        asyncio.run(main(process))
        process.says("reader took nothing and was sent away")


def test_nothing_remains_of_readers_that_go_away(process: LogStoreProcess) -> None:
    async def main() -> None:
        with process.log_files(JOB) as files:
            os.write(files.output, b"hello")
            async with process.client() as (_, stub):
                calls = [stub.ReadLogs(request()) for _ in range(20)]
                for call in calls:
                    chunk = await call.read()
                    assert isinstance(chunk, DataChunk) and chunk.payload == b"hello"
                assert process.metric("joblet_log_followers") == 20
                assert process.watches() == 2
                for call in calls[:10]:
                    call.cancel()
                await asyncio.to_thread(eventually, lambda: process.metric("joblet_log_followers") == 10)
            # The rest went with their connection.
            await asyncio.to_thread(eventually, lambda: process.metric("joblet_log_followers") == 0)
            await asyncio.to_thread(eventually, lambda: (process.descriptors(), process.watches()) == ([], 0))

    asyncio.run(main())


def test_sigterm_ends_readers_with_unavailable_and_the_process_with_0(process: LogStoreProcess) -> None:
    async def main() -> None:
        with process.log_files(JOB) as files:
            os.write(files.output, b"hello")
            async with process.client() as (_, stub):
                call = stub.ReadLogs(request(), timeout=TIMEOUT_SECONDS)
                await call.read()
                process.process.terminate()
                assert await failure(call) == (grpc.StatusCode.UNAVAILABLE, "the logstore is stopping")

    asyncio.run(main())
    assert process.ended() == 0
    assert not (process.directory / "control.sock").exists()


def test_health_metrics_and_garbage(process: LogStoreProcess) -> None:
    async def main() -> None:
        async with process.client("viewer-client") as (channel, _):
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE.full_name), timeout=TIMEOUT_SECONDS
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    assert process.http("/healthz") == process.http("/readyz") == "ok\n"
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), random.Random(7).randbytes(9000)):
        send_garbage(process.port, garbage)
    asyncio.run(main())
    for name in ("joblet_log_followers", "joblet_log_bytes_sent_total", "joblet_log_open_total"):
        assert f"# HELP {name.removesuffix('_total')}" in process.http("/metrics")


def test_an_incomplete_log_is_removed_at_the_start(process: LogStoreProcess) -> None:
    process.end(signal.SIGKILL)
    incomplete = process.directory / "logs" / JOB
    incomplete.mkdir()
    (incomplete / "output").touch()
    process.start()
    assert not incomplete.exists()
    assert any(f"removed an incomplete log | jobId={JOB}" in line for line in process.log)


def test_what_is_taken_is_refused_by_name(process: LogStoreProcess, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "joblet.logstore", "--config", str(process.write_config())]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    second = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert second.returncode == 1
    assert second.stderr == f"Error: cannot listen on {tmp_path}/control.sock: address already in use\n"


def test_where_a_reader_would_begin(process: LogStoreProcess) -> None:
    ended_log(process, b"one\ntwo\nthree")

    async def main() -> None:
        async with process.client() as (_, stub):
            wanted = ReadLogsRequest(job_id=JOB, tail_lines=2)
            found = await stub.FindBeginning(wanted, timeout=TIMEOUT_SECONDS)
            assert found == FindBeginningResponse(offset=4, lines=2, reached=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.FindBeginning(ReadLogsRequest(job_id=UNKNOWN), timeout=TIMEOUT_SECONDS)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(main())
    eventually(lambda: (process.descriptors(), process.watches()) == ([], 0))  # who keeps the logs looks at them, too
