"""What happens to logs besides being read, with a real process on a real disk."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from joblet.api.internal.logstore_pb2 import DeleteLogsRequest, ReadLogsRequest
from joblet.api.job_pb2 import DataChunk
from joblet.logstore.indexheader import BLOCK_SIZE
from joblet.logstore.testing import TIMEOUT_SECONDS, LogStoreProcess, eventually, logstore, writer

if TYPE_CHECKING:
    from joblet.api.internal.logstore_pb2_grpc import LogStoreServiceAsyncStub

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
MIB = 1 << 20
TEXT = b"".join(b"%07d of the lines\n" % number for number in range(100_000))
AT_ONCE = {"sealAfter": "0s", "sealMinKb": 0}
MORE_PATIENCE = 1.1


def job(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def write(process: LogStoreProcess, content: bytes, job_id: str = JOB) -> None:
    """A job that prints this and ends."""
    with process.log_files(job_id) as files, writer(files) as init:
        init.communicate(content, timeout=TIMEOUT_SECONDS)


async def chunks(process: LogStoreProcess, **wanted: object) -> list[DataChunk]:
    request = ReadLogsRequest(**{"job_id": JOB, "search_archive": True, **wanted})  # type: ignore[arg-type]
    async with process.client() as (_, stub):
        return [chunk async for chunk in stub.ReadLogs(request, timeout=TIMEOUT_SECONDS)]


def read(process: LogStoreProcess, **wanted: object) -> bytes:
    """All that is wanted; the chunks must join."""
    received = asyncio.run(chunks(process, **wanted))
    for before, after in pairwise(received):
        assert after.offset == before.offset + len(before.payload)
    return b"".join(chunk.payload for chunk in received)


def status(process: LogStoreProcess, job_id: str = JOB) -> grpc.StatusCode:
    try:
        asyncio.run(chunks(process, job_id=job_id))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def delete(process: LogStoreProcess, job_id: str = JOB) -> grpc.StatusCode:
    async def call() -> None:
        async with process.client() as (_, stub):
            await stub.DeleteLogs(DeleteLogsRequest(job_id=job_id), timeout=TIMEOUT_SECONDS)

    try:
        asyncio.run(call())
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def first_kept(process: LogStoreProcess) -> int:
    """The first byte of the output that is still there."""
    return asyncio.run(chunks(process, no_follow=True))[0].offset


async def begin_reading(
    stub: "LogStoreServiceAsyncStub", init: "subprocess.Popen[bytes]", content: bytes
) -> "tuple[AsyncIterator[DataChunk], bytes]":
    """A reader that has received the output's first bytes, which are all that `init` has written."""
    assert init.stdin is not None
    init.stdin.write(content[:1000])
    init.stdin.flush()
    call = aiter(stub.ReadLogs(ReadLogsRequest(job_id=JOB), timeout=TIMEOUT_SECONDS))
    received = await anext(call)
    assert (received.offset, received.payload) == (0, content[:1000])
    return call, received.payload


def files(process: LogStoreProcess, job_id: str = JOB) -> set[str]:
    try:
        return {path.name for path in (process.directory / "logs" / job_id).iterdir()}
    except FileNotFoundError:  # the log is gone
        return set()


def test_a_log_is_sealed_after_its_end_and_read_by_the_same_calls(tmp_path: Path) -> None:
    with logstore(tmp_path, **AT_ONCE) as process:
        write(process, TEXT)
        eventually(lambda: files(process) == {"sealed", "index"})
        sealed = process.directory / "logs" / JOB / "sealed"
        assert sealed.stat().st_size < len(TEXT) // 4
        assert read(process) == TEXT
        for offset in (1, 262_144, len(TEXT) - 1, len(TEXT)):
            assert read(process, offset=offset) == TEXT[offset:]
        assert read(process, tail_lines=2) == TEXT[-2 * 21 :]
        assert read(process, since_ns=1, timestamps=True) == TEXT
        assert process.ask("size", JOB)[0] == {"ok": True, "bytes": len(TEXT), "ended": True}
        assert process.ask("finish", JOB)[0] == {"ok": True, "bytes": len(TEXT)}
        assert process.ask("open", JOB)[0]["ok"] is False
        eventually(lambda: process.metric("joblet_log_sealed_total") == 1)
        eventually(lambda: process.descriptors() == [])
        assert delete(process) is grpc.StatusCode.OK
        assert files(process) == set()


def test_a_small_log_stays_as_it_is_whatever_comes_after_it(tmp_path: Path) -> None:
    with logstore(tmp_path, sealAfter="0s") as process:
        write(process, b"x" * 4095)
        write(process, b"", job(1))
        write(process, b"x" * 4096, job(2))
        eventually(lambda: files(process, job(2)) == {"sealed", "index"})
        assert files(process) == files(process, job(1)) == {"output", "index"}
        assert (read(process), read(process, job_id=job(1))) == (b"x" * 4095, b"")
        process.end(signal.SIGKILL)
        process.settings = AT_ONCE
        process.start()
        eventually(lambda: files(process) == files(process, job(1)) == {"sealed", "index"})


def test_a_reader_does_not_notice_that_its_log_is_sealed(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(24 * MIB)  # more than is on its way to a reader at any time

    async def scenario(process: LogStoreProcess) -> bytes:
        async with process.client() as (_, stub):
            call = aiter(stub.ReadLogs(ReadLogsRequest(job_id=JOB), timeout=TIMEOUT_SECONDS))
            received = bytearray((await anext(call)).payload)
            await asyncio.to_thread(eventually, lambda: files(process) == {"sealed", "index"})
            async for chunk in call:
                assert chunk.offset == len(received)
                received += chunk.payload
            return bytes(received)

    with logstore(tmp_path, sealAfter="1s") as process:
        write(process, content)
        assert asyncio.run(scenario(process)) == content


def test_a_log_that_cannot_be_sealed_stays_and_holds_no_other_up(tmp_path: Path) -> None:
    with logstore(tmp_path) as process:
        write(process, TEXT)
        write(process, TEXT, job(1))
        assert process.end(signal.SIGTERM) == 0
        os.truncate(process.directory / "logs" / JOB / "output", len(TEXT) - 1)
        process.settings = AT_ONCE
        process.start()
        eventually(lambda: files(process, job(1)) == {"sealed", "index"})
        eventually(lambda: process.metric("joblet_log_seal_failures_total") >= 2)
        process.says(JOB, f"only {len(TEXT) - 1} of {len(TEXT)} bytes")
        eventually(lambda: files(process) == {"output", "index"})  # also when it is just being tried again
        assert status(process) is grpc.StatusCode.INTERNAL


def test_damage_is_told_with_its_place_and_what_is_before_it_is_read(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(MIB)
    with logstore(tmp_path, **AT_ONCE) as process:
        write(process, content)
        eventually(lambda: files(process) == {"sealed", "index"})
        with (process.directory / "logs" / JOB / "sealed").open("r+b") as file:
            file.seek(MIB // 2 + 1000)
            file.write(b"damage")

        async def scenario() -> None:
            received = b""
            async with process.client() as (_, stub):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    async for chunk in stub.ReadLogs(ReadLogsRequest(job_id=JOB), timeout=TIMEOUT_SECONDS):
                        received += chunk.payload
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert "bytes 524288 to 786432 of the output have a wrong checksum" in str(caught.value.details())
            assert received == content[:524288]

        asyncio.run(scenario())


def test_the_front_of_a_running_jobs_log_goes_and_readers_are_told(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(8 * MIB)
    with logstore(tmp_path, retention={"maxJobSizeMb": 1, "readerHold": "0s"}) as process:
        output = process.directory / "logs" / JOB / "output"
        with process.log_files(JOB) as log, writer(log) as init:
            assert init.stdin is not None
            init.stdin.write(content)
            init.stdin.flush()
            # What is over by less than an eighth stays.
            eventually(lambda: output.stat().st_size == len(content) and first_kept(process) >= 7 * MIB - MIB // 8)
            eventually(lambda: output.stat().st_blocks * 512 < 2 * MIB)  # after readers have been told
            received = asyncio.run(chunks(process, no_follow=True))
            first = received[0].offset
            assert 6 * MIB < first <= 7 * MIB and first % BLOCK_SIZE == 0
            assert b"".join(chunk.payload for chunk in received) == content[first:]
            assert read(process, no_follow=True, offset=first + 1) == content[first + 1 :]
            assert read(process, no_follow=True, tail_lines=10**9) == content[first:]
            (missing, *_) = asyncio.run(chunks(process, no_follow=True, offset=3))
            assert missing.offset == first
            eventually(lambda: process.metric("joblet_log_removed_bytes_total") == first)
            process.end(signal.SIGKILL)
            process.start()
            assert read(process, no_follow=True, offset=first) == content[first:]
            init.communicate(timeout=TIMEOUT_SECONDS)
        assert read(process) == content[first:]


def test_a_log_that_is_over_its_size_when_it_ends_loses_its_front_before_it_is_sealed(tmp_path: Path) -> None:
    content = random.Random(8).randbytes(3 * MIB)
    with logstore(tmp_path, retention={"maxJobSizeMb": 1, "readerHold": "0s"}, **AT_ONCE) as process:
        write(process, content)
        eventually(lambda: files(process) == {"sealed", "index"})
        first = first_kept(process)
        assert 2 * MIB - MIB // 8 <= first <= 2 * MIB  # a part may have gone before the end, and an eighth may stay
        assert read(process) == content[first:]


def test_a_sealed_log_without_its_front_says_so_too(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(4 * MIB)
    with logstore(tmp_path, retention={"maxJobSizeMb": 1, "readerHold": "0s"}, **AT_ONCE) as process:
        output = process.directory / "logs" / JOB / "output"
        with process.log_files(JOB) as log, writer(log) as init:
            assert init.stdin is not None
            init.stdin.write(content)
            init.stdin.flush()
            eventually(lambda: output.stat().st_size == len(content) and output.stat().st_blocks * 512 < 2 * MIB)
            init.communicate(timeout=TIMEOUT_SECONDS)
        eventually(lambda: files(process) == {"sealed", "index"})
        received = asyncio.run(chunks(process))
        assert received[0].offset >= 2 * MIB
        assert b"".join(chunk.payload for chunk in received) == content[received[0].offset :]


def test_a_reader_that_is_behind_is_waited_for(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(40 * MIB)  # more than is on its way to a reader at any time

    async def scenario(process: LogStoreProcess, init: subprocess.Popen[bytes]) -> None:
        output = process.directory / "logs" / JOB / "output"
        async with process.client() as (_, stub):
            call, begun = await begin_reading(stub, init, content)
            received = bytearray(begun)
            # All is written, and the reader has not taken it.
            await asyncio.to_thread(init.communicate, content[len(begun) :], TIMEOUT_SECONDS)
            async for chunk in call:
                assert chunk.offset == len(received)
                received += chunk.payload
            assert bytes(received) == content
        await asyncio.to_thread(eventually, lambda: output.stat().st_blocks * 512 < 2 * MIB)

    settings = {"maxJobSizeMb": 1, "readerHold": "1h"}
    with logstore(tmp_path, retention=settings) as process, process.log_files(JOB) as log, writer(log) as init:
        asyncio.run(scenario(process, init))


def test_a_reader_that_stays_behind_is_overtaken_and_told(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(40 * MIB)

    async def scenario(process: LogStoreProcess, init: subprocess.Popen[bytes]) -> None:
        output = process.directory / "logs" / JOB / "output"
        async with process.client() as (_, stub):
            call, begun = await begin_reading(stub, init, content)
            received = {0: begun}
            await asyncio.to_thread(init.communicate, content[len(begun) :], TIMEOUT_SECONDS)
            await asyncio.to_thread(eventually, lambda: output.stat().st_blocks * 512 < 2 * MIB)
            async for chunk in call:
                received[chunk.offset] = chunk.payload
        assert all(content[offset : offset + len(payload)] == payload for offset, payload in received.items())
        ends = {offset + len(payload) for offset, payload in received.items()}
        # The beginning, and a place behind what was removed; another one when it was removed in two steps.
        assert len(set(received) - ends) >= 2
        assert max(ends) == len(content)

    settings = {"maxJobSizeMb": 1, "readerHold": "0s"}
    with logstore(tmp_path, retention=settings) as process, process.log_files(JOB) as log, writer(log) as init:
        asyncio.run(scenario(process, init))


@pytest.mark.parametrize("retention", [{"maxAge": "1s"}, {"maxTotalMb": 2}])
def test_ended_logs_go_by_age_and_in_total_and_running_ones_stay(tmp_path: Path, retention: dict[str, object]) -> None:
    with logstore(tmp_path, retention=retention) as process, process.log_files(JOB) as log, writer(log) as init:
        assert init.stdin is not None
        init.stdin.write(bytes(3 * MIB))
        init.stdin.flush()
        write(process, b"x", job(1))
        eventually(lambda: files(process, job(1)) == set())
        reason = "age" if "maxAge" in retention else "total"
        process.says(f"reason={reason}")
        assert process.metric("joblet_log_removed_total") == 1
        assert read(process, no_follow=True) == bytes(3 * MIB)
        init.communicate(timeout=TIMEOUT_SECONDS)


def test_a_log_outlives_its_node_in_the_archive(tmp_path: Path) -> None:
    archive = {"url": f"file://{tmp_path}/archive"}
    with logstore(tmp_path, archive=archive, **AT_ONCE) as process:
        write(process, TEXT)
        eventually(lambda: "archived" in files(process))
        eventually(lambda: process.metric("joblet_log_archived_total") == 1)
        shutil.rmtree(process.directory / "logs" / JOB)
        assert status(process, job(1)) is grpc.StatusCode.NOT_FOUND
        assert read(process) == TEXT
        assert read(process, offset=len(TEXT) - 5) == TEXT[-5:]
        assert read(process, tail_lines=1, timestamps=True) == TEXT[-21:]
        assert process.end(signal.SIGTERM) == 0
    node = tmp_path / "new"
    node.mkdir()
    with logstore(node, archive=archive) as process:
        assert read(process) == TEXT
        assert delete(process) is grpc.StatusCode.OK
        assert status(process) is grpc.StatusCode.NOT_FOUND
        assert delete(process) is grpc.StatusCode.NOT_FOUND
        assert list((tmp_path / "archive").glob("**/sealed")) == []


def test_deleting_removes_both_copies(tmp_path: Path) -> None:
    with logstore(tmp_path, archive={"url": f"file://{tmp_path}/archive"}, **AT_ONCE) as process:
        write(process, TEXT)
        eventually(lambda: "archived" in files(process))
        assert delete(process) is grpc.StatusCode.OK
        assert (files(process), list((tmp_path / "archive").glob("**/sealed"))) == (set(), [])
        assert status(process) is grpc.StatusCode.NOT_FOUND


def test_an_archive_that_does_not_answer_is_asked_again_and_keeps_the_log_here(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with logstore(tmp_path, archive={"url": f"file://{archive}"}, retention={"maxAge": "1s"}, **AT_ONCE) as process:
        archive.rmdir()
        archive.write_text("not a directory")
        write(process, TEXT)
        eventually(lambda: process.metric("joblet_log_archive_failures_total") >= 2)
        assert process.metric("joblet_log_archive_pending") == 1
        assert read(process) == TEXT
        assert delete(process) is grpc.StatusCode.UNAVAILABLE
        write(process, TEXT, job(2))
        archive.unlink()
        archive.mkdir(exist_ok=True)  # the next attempt to copy makes it, too
        eventually(lambda: files(process, job(2)) == set())  # old enough, and copied
        assert read(process, job_id=job(2)) == TEXT


def test_a_full_disk_is_told_and_so_is_room(tmp_path: Path) -> None:
    """The mark is what a job's init sets; tests/e2e/log_disk_full_test.py fills a disk."""
    with logstore(tmp_path) as process, process.log_files(JOB) as log, writer(log) as init:
        os.fchmod(log.output, 0o1600)
        eventually(lambda: process.metric("joblet_log_writers_waiting") == 1)
        eventually(lambda: process.metric("joblet_log_pauses_total") == 1)
        process.says("disk full", JOB)
        os.fchmod(log.output, 0o600)
        eventually(lambda: process.metric("joblet_log_writers_waiting") == 0)
        process.says("disk has room again")
        init.communicate(timeout=TIMEOUT_SECONDS)


def killed_again_and_again(process: LogStoreProcess, done: Callable[[], bool], seconds: float) -> None:
    """Kills and restarts it after random times up to so many seconds, until `done`.

    Each time a little later, lest a busy machine never comes to the end of a step that is begun again each time.
    """
    chance, kills = random.Random(seconds), 0
    while not done():
        assert process.process.poll() is None
        try:
            process.process.wait(chance.uniform(0.0, seconds * MORE_PATIENCE**kills))
        except subprocess.TimeoutExpired:
            process.end(signal.SIGKILL)
            process.start()
            kills += 1
    print(f"killed {kills} times")


@pytest.mark.slow
def test_killed_at_any_moment_while_it_seals_and_copies(tmp_path: Path) -> None:
    count = int(os.environ.get("JOBLET_KILLED_LOGS", "4"))
    archive = tmp_path / "archive"
    contents = {job(number): random.Random(number).randbytes(number * 999_983 % (4 * MIB)) for number in range(count)}
    with logstore(tmp_path) as process:
        for job_id, content in contents.items():
            write(process, content, job_id)
        assert process.end(signal.SIGTERM) == 0
        process.settings = {"archive": {"url": f"file://{archive}"}, **AT_ONCE}
        process.start()

        def all_copied() -> bool:
            return all(files(process, job_id) == {"sealed", "index", "archived"} for job_id in contents)

        killed_again_and_again(process, all_copied, seconds=0.25)
        for job_id, content in contents.items():
            assert read(process, job_id=job_id) == content
        assert process.end(signal.SIGTERM) == 0  # it may be writing a mark of the archive once more
        shutil.rmtree(process.directory / "logs")
        process.start()
        for job_id, content in contents.items():
            assert read(process, job_id=job_id) == content


@pytest.mark.slow
def test_killed_at_any_moment_while_it_removes_fronts(tmp_path: Path) -> None:
    content = random.Random(7).randbytes(int(os.environ.get("JOBLET_KILLED_MIB", "8")) * MIB)
    with logstore(tmp_path, retention={"maxJobSizeMb": 1, "readerHold": "0s"}) as process:
        with process.log_files(JOB) as log, writer(log) as init:
            assert init.stdin is not None
            written = 0

            def write_some() -> bool:
                nonlocal written
                assert init.stdin is not None
                init.stdin.write(content[written : written + 2 * MIB])
                init.stdin.flush()
                written += 2 * MIB
                received = asyncio.run(chunks(process, no_follow=True))
                for chunk in received:
                    assert chunk.payload == content[chunk.offset : chunk.offset + len(chunk.payload)]
                return written >= len(content)

            killed_again_and_again(process, write_some, seconds=0.6)
            init.communicate(timeout=TIMEOUT_SECONDS)
        received = asyncio.run(chunks(process))
        assert b"".join(chunk.payload for chunk in received) == content[received[0].offset :]


@pytest.mark.slow
def test_killed_at_any_moment_while_it_removes_logs(tmp_path: Path) -> None:
    """Each log is whole or gone, the newest are there, and nothing is left over of the others."""
    contents = {job(number): random.Random(number).randbytes(MIB // 4) for number in range(16)}
    with logstore(tmp_path) as process:
        for job_id, content in contents.items():
            write(process, content, job_id)
        assert process.end(signal.SIGTERM) == 0
        process.settings = {"retention": {"maxTotalMb": 2}, **AT_ONCE}
        process.start()

        def few_left() -> bool:
            # Eight and their indexes are over the limit. A log that is being sealed is passed over once, so that it may
            # be the eighth for a moment.
            left = [files(process, job_id) for job_id in contents]
            return sum(bool(names) for names in left) <= 7 and all(names <= {"sealed", "index"} for names in left)

        killed_again_and_again(process, few_left, seconds=0.1)
        left = [job_id for job_id in contents if files(process, job_id)]
        assert left == list(contents)[-len(left) :]
        for job_id in left:
            assert read(process, job_id=job_id) == contents[job_id]
        for job_id in set(contents) - set(left):
            assert status(process, job_id) is grpc.StatusCode.NOT_FOUND
