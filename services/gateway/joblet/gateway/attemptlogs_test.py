"""Parts of the output of jobs that are retried, over real TLS, with a node that does what the test says."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2
from joblet.api.job_pb2 import DataChunk, GetJobLogsReq, RetryPolicy
from joblet.common.states import LOST_ATTEMPT_BYTES, UNKNOWN_BYTES
from joblet.gateway import retry
from joblet.gateway.testing import FakeJob, FakeNode, World, failure, output, world

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub

# What each attempt prints; the last succeeds. Their ends without a newline are lines.
TEXTS = (b"1 one\n1 two\n1 end", b"", b"3 one\n", b"4 one\n4 two\n4 end")
LINES = [line for text in TEXTS for line in text.splitlines(keepends=True)]
EVERYTHING = b"".join(TEXTS)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts, where a test does not ask for one."""
    monkeypatch.setattr(retry, "DEFAULT_BACKOFF_SECONDS", 0)


async def prints(node: FakeNode, job: FakeJob) -> None:
    node.started(job)
    for line in TEXTS[job.spec.attempt - 1].splitlines(keepends=True):
        node.print(job, line)
    failed = job.spec.attempt < len(TEXTS)
    node.ended(job, "FAILED" if failed else "COMPLETED", int(failed))


async def run(client: "JobServiceAsyncStub", backoff_seconds: int = 0) -> str:
    policy = RetryPolicy(maxRetries=9, backoffSeconds=backoff_seconds)
    return (await client.RunJob(job_pb2.RunJobReq(command="x", retry=policy))).job.uuid


def over(tmp_path: Path, check: Callable[[World, "JobServiceAsyncStub", str], Awaitable[None]]) -> None:
    """Runs `check` with a job that has had all its attempts."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = prints
            client = await it.client()
            job_id = await run(client)
            await client.WaitJob(job_pb2.WaitJobReq(uuid=job_id, timeoutSeconds=120))
            await check(it, client, job_id)

    asyncio.run(scenario())


def at(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)


async def read(client: "JobServiceAsyncStub", job_id: str, **wanted: Any) -> bytes:
    """Its first chunk says where it begins, and all of them join."""
    chunks = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id, **wanted))]
    if "tailLines" in wanted or "since" in wanted:
        assert not chunks[0].payload
    return await output(_each(chunks))


async def _each(chunks: list[DataChunk]) -> Any:
    for chunk in chunks:
        yield chunk


def test_the_last_lines_of_all_attempts(tmp_path: Path) -> None:
    async def check(it: World, client: "JobServiceAsyncStub", job_id: str) -> None:
        for count in range(len(LINES) + 2):
            wanted = b"".join(LINES[max(0, len(LINES) - count) :])
            for no_follow in (False, True):
                assert await read(client, job_id, tailLines=count, noFollow=no_follow) == wanted, count
            first = await anext(aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, tailLines=count))))
            assert first.offset == len(EVERYTHING) - len(wanted)
        assert await read(client, job_id, tailLines=2, attempt=1) == b"1 two\n1 end"

    over(tmp_path, check)


def test_windows_of_time_tile_all_attempts(tmp_path: Path) -> None:
    async def check(it: World, client: "JobServiceAsyncStub", job_id: str) -> None:
        jobs = [*it.node.finished.values(), *it.node.jobs.values()]
        times = sorted(when_ns for job in jobs for _, when_ns in job.written)
        assert len(times) == len(LINES)
        for number, time_ns in enumerate(times):
            late, early = b"".join(LINES[number:]), b"".join(LINES[:number])
            for no_follow in (False, True):
                assert await read(client, job_id, since=at(time_ns), noFollow=no_follow) == late, number
                assert await read(client, job_id, until=at(time_ns), noFollow=no_follow) == early, number
            assert await read(client, job_id, since=at(time_ns), tailLines=2) == b"".join(LINES[number:][-2:])
            assert await read(client, job_id, until=at(time_ns), tailLines=2) == b"".join(LINES[:number][-2:])
        edges = [0, *times[::2], times[-1] + 1, time.time_ns() + 10**12]
        windows = [await read(client, job_id, since=at(a), until=at(b)) for a, b in pairwise(edges)]
        assert b"".join(windows) == EVERYTHING
        assert await read(client, job_id, since=at(edges[-1])) == b""
        assert await read(client, job_id, offset=20, until=at(times[-1])) == b"".join(LINES[:-1])[20:]

    over(tmp_path, check)


def test_every_chunk_says_whose_it_is(tmp_path: Path) -> None:
    async def check(it: World, client: "JobServiceAsyncStub", job_id: str) -> None:
        chunks = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id, offset=7))]
        assert [(chunk.attempt, chunk.offset) for chunk in chunks] == [
            (1, 7), (3, len(TEXTS[0])), (4, len(TEXTS[0] + TEXTS[2])),
        ]  # fmt: skip
        one = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id, attempt=3))]
        assert [(chunk.attempt, chunk.offset, chunk.payload) for chunk in one] == [(3, 0, TEXTS[2])]

    over(tmp_path, check)


def test_a_log_that_is_gone_is_a_gap(tmp_path: Path) -> None:
    async def check(it: World, client: "JobServiceAsyncStub", job_id: str) -> None:
        jobs = {job.spec.attempt: job for job in (it.node.finished | it.node.jobs).values()}
        jobs[1].has_log = False
        chunks = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id))]
        assert [(chunk.offset, chunk.payload) for chunk in chunks] == [
            (len(TEXTS[0]), TEXTS[2]), (len(TEXTS[0] + TEXTS[2]), TEXTS[3]),
        ]  # fmt: skip
        assert await read(client, job_id, tailLines=100) == TEXTS[2] + TEXTS[3]
        assert await read(client, job_id, since=at(0)) == TEXTS[2] + TEXTS[3]
        jobs[4].has_log = False
        code, text = await failure(output(client.GetJobLogs(GetJobLogsReq(uuid=job_id))))
        assert (code, text) == ("NOT_FOUND", f"log not found for job: {job_id}")

    over(tmp_path, check)


def test_the_last_lines_and_then_what_comes_of_later_attempts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            go = asyncio.Event()

            async def waits(node: FakeNode, job: FakeJob) -> None:
                if job.spec.attempt == 4:
                    node.started(job)
                    node.print(job, b"4 ")
                    await go.wait()
                    job.output.clear()
                await prints(node, job)

            it.node.script = waits
            client = await it.client()
            job_id = await run(client)
            async with asyncio.timeout(120):
                while (await it.status(job_id)).attempt < 4 or not it.node.jobs[it.node.starts[-1]].output:
                    await asyncio.sleep(0.01)
            call = aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, tailLines=3)))
            nothing = aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, tailLines=0)))
            assert await anext(call) == DataChunk(offset=len(b"1 one\n1 two\n"))
            assert await anext(nothing) == DataChunk(offset=len(TEXTS[0] + TEXTS[2] + b"4 "))
            go.set()
            assert await output(call) == b"".join(LINES[2:])
            assert await output(nothing) == TEXTS[3][2:]

    asyncio.run(scenario())


def test_nothing_of_the_next_attempt_is_passed_over_when_a_log_ends_before_its_end_is_told(tmp_path: Path) -> None:
    """Also for a reader that was sent nothing of the attempt that ends."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            end = asyncio.Event()

            async def waits(node: FakeNode, job: FakeJob) -> None:
                node.started(job)
                node.print(job, b"%d printed\n" % job.spec.attempt)
                if job.spec.attempt == 1:
                    await end.wait()
                    node.ended(job, "FAILED", 1)
                else:
                    node.ended(job, "COMPLETED", 0)

            it.node.script = waits
            client = await it.client()
            job_id = await run(client)
            await it.until(job_id, "RUNNING")
            call = aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, tailLines=0)))
            assert await anext(call) == DataChunk(offset=len(b"1 printed\n"))
            async with asyncio.timeout(120):
                while not it.node.readers:
                    await asyncio.sleep(0.01)
                await it.node.executor_down()
                end.set()
                while it.node.readers:
                    await asyncio.sleep(0.01)
            await it.node.executor_up()
            assert await output(call) == b"2 printed\n"

    asyncio.run(scenario())


def test_readers_of_an_attempt_that_was_lost_go_on_where_they_were(tmp_path: Path) -> None:
    """However much each has seen of it, the next attempt begins at the same offset for all of them."""

    async def scenario() -> None:
        async with world(tmp_path, lease_seconds=1) as it:
            second = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(second.down)
            await second.up()

            async def printing(node: FakeNode, job: FakeJob) -> None:
                node.started(job)
                node.print(job, b"%d printed\n" % job.spec.attempt)

            it.node.script = second.script = printing
            client = await it.client()
            job_id = await run(client)
            call = aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id)))
            assert await anext(call) == DataChunk(attempt=1, payload=b"1 printed\n")
            await it.node.executor_down()
            async with asyncio.timeout(120):
                while not second.jobs:
                    await it.heartbeat(second)
                    await asyncio.sleep(0.02)
            await it.until(job_id, "RUNNING")
            old = DataChunk(attempt=1, payload=b"1 printed\n")
            new = DataChunk(attempt=2, payload=b"2 printed\n", offset=LOST_ATTEMPT_BYTES)
            everything = aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id)))
            assert [await anext(everything), await anext(everything)] == [old, new]  # its logstore is still there
            last = await anext(aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, tailLines=0))))
            assert last == DataChunk(offset=LOST_ATTEMPT_BYTES + len(b"2 printed\n"))
            await it.node.executor_up()
            await it.beat()
            assert await anext(call) == new
            again = await anext(aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, offset=3))))
            assert again == DataChunk(attempt=1, payload=old.payload[3:], offset=3)
            for offset in (len(b"1 printed\n"), LOST_ATTEMPT_BYTES, LOST_ATTEMPT_BYTES + 2):
                again = await anext(aiter(client.GetJobLogs(GetJobLogsReq(uuid=job_id, offset=offset))))
                rest = new.payload[max(0, offset - new.offset) :]
                assert again == DataChunk(attempt=2, payload=rest, offset=max(offset, new.offset))

    asyncio.run(scenario())


async def prints_unseen(node: FakeNode, job: FakeJob) -> None:
    """Its node cannot say how much, and nobody marks the end of its log."""
    node.started(job)
    node.print(job, b"%d printed\n" % job.spec.attempt)
    job.log_has_end = False
    node.ended(job, "FAILED", -1, "supervisor-killed", output_bytes=UNKNOWN_BYTES)


def test_an_attempt_that_may_have_printed_anything_is_not_taken_as_empty(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = prints_unseen
            client = await it.client()
            policy = RetryPolicy(maxRetries=1)
            job_id = (await client.RunJob(job_pb2.RunJobReq(command="x", retry=policy))).job.uuid
            async with asyncio.timeout(120):
                chunks = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id))]
                first = DataChunk(attempt=1, payload=b"1 printed\n")
                second = DataChunk(attempt=2, payload=b"2 printed\n", offset=LOST_ATTEMPT_BYTES)
                assert chunks == [first, second]
                for no_follow in (False, True):
                    for wanted in ({"tailLines": 2}, {"since": at(0)}):
                        request = GetJobLogsReq(uuid=job_id, noFollow=no_follow, **wanted)
                        assert [chunk async for chunk in client.GetJobLogs(request)] == [DataChunk(), first, second]
                    later = GetJobLogsReq(uuid=job_id, noFollow=no_follow, since=at(time.time_ns()))
                    end = DataChunk(offset=second.offset + len(second.payload))
                    assert [chunk async for chunk in client.GetJobLogs(later)] == [end]
                rest = [chunk async for chunk in client.GetJobLogs(GetJobLogsReq(uuid=job_id, offset=3))]
                assert rest == [DataChunk(attempt=1, payload=b"rinted\n", offset=3), second]
                for number in (1, 2):
                    request = GetJobLogsReq(uuid=job_id, attempt=number)
                    assert await output(client.GetJobLogs(request)) == b"%d printed\n" % number
            shown = (await it.status(job_id)).attempts
            assert [attempt.HasField("outputBytes") for attempt in shown] == [False, False]

    asyncio.run(scenario())


def test_what_a_job_printed_of_whose_length_nothing_is_known(tmp_path: Path) -> None:
    """Of one that is not retried (its attempt is 0), too: the stream ends with what there is."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = prints_unseen
            client = await it.client()
            job_id = (await client.RunJob(job_pb2.RunJobReq(command="x"))).job.uuid
            await it.until(job_id, "FAILED")
            async with asyncio.timeout(120):
                assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job_id))) == b"0 printed\n"

    asyncio.run(scenario())


def test_a_last_attempt_that_was_lost_is_shown_once_its_node_is_back(tmp_path: Path) -> None:
    """While the node is away, nothing is, without an error; its end was never told."""

    async def printing(node: FakeNode, job: FakeJob) -> None:
        node.started(job)
        if job.spec.attempt == 1:
            node.ended(job, "FAILED", 1)
        else:
            node.print(job, b"one\ntwo\n")

    async def scenario() -> None:
        async with world(tmp_path, lease_seconds=1) as it:
            it.node.script = printing
            client = await it.client()
            policy = RetryPolicy(maxRetries=1)
            job_id = (await client.RunJob(job_pb2.RunJobReq(command="x", retry=policy))).job.uuid
            async with asyncio.timeout(120):
                while (await it.status(job_id)).attempt < 2 or (await it.status(job_id)).status != "RUNNING":
                    await asyncio.sleep(0.01)
            await it.node.down()
            assert (await it.until(job_id, "FAILED")).reason == "node-lost"
            for wanted in ({}, {"tailLines": 5}, {"since": at(0)}, {"noFollow": True}):
                assert await read(client, job_id, **wanted) == b""
            it.node.finished |= it.node.jobs
            it.node.lose_state()
            await it.node.up()
            await it.beat()
            assert await read(client, job_id) == b"one\ntwo\n"
            assert await read(client, job_id, tailLines=1) == b"two\n"
            assert await read(client, job_id, since=at(0), noFollow=True) == b"one\ntwo\n"
            assert await read(client, job_id, offset=5) == b"wo\n"

    asyncio.run(scenario())


def test_times_that_have_not_come_are_waited_for_between_attempts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = prints
            client = await it.client()
            job_id = await run(client, backoff_seconds=1)
            await it.until(job_id, "SCHEDULED")
            soon_ns = time.time_ns() + 10**9 // 2
            soon = at(soon_ns)
            everything, early, late = await asyncio.gather(
                read(client, job_id), read(client, job_id, until=soon), read(client, job_id, since=soon)
            )
            jobs = [*it.node.finished.values(), *it.node.jobs.values()]
            times = [when_ns for job in jobs for _, when_ns in job.written]
            # Of the first attempt alone, unless the machine let this test stand still for long.
            assert early == b"".join(LINES[: sum(when_ns < soon_ns for when_ns in times)])
            assert early.startswith(TEXTS[0])
            assert early + late == everything == EVERYTHING
            before = time.monotonic()
            far = run(client, backoff_seconds=3600)
            assert await read(client, await far, until=at(time.time_ns() + 10**9 // 2)) == TEXTS[0]
            assert time.monotonic() - before < 120, "no later attempt was waited for"

    asyncio.run(scenario())


def test_a_logstore_that_sends_a_reader_away_in_an_earlier_attempt(tmp_path: Path) -> None:
    """It goes on in the same attempt, not in the latest one."""

    async def check(it: World, client: "JobServiceAsyncStub", job_id: str) -> None:
        content = b"".join(b"%7d\n" % number for number in range(50_000))
        (it.node.finished | it.node.jobs)[job_id].output[:] = content
        await it.gateway.database.write(_set_size, job_id, len(content))
        it.node.impatient = 3
        assert await read(client, job_id) == content + EVERYTHING[len(TEXTS[0]) :]
        assert it.node.impatient == 0

    over(tmp_path, check)


def _set_size(connection: Any, job_id: str, size: int) -> None:
    connection.exec_driver_sql("UPDATE attempts SET output_bytes = ? WHERE job_id = ? AND number = 1", (size, job_id))
