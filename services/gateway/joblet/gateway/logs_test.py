"""GetJobLogs over real TLS: every byte once, through restarts of the logstore, and OK only after the end."""

import asyncio
import random
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from joblet.api import job_pb2
from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.api.job_pb2 import GetJobLogsReq
from joblet.common.states import JobState
from joblet.gateway import streams
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.testing import job_values
from joblet.gateway.testing import FakeJob, FakeNode, World, failure, output, run_forever, run_true, world


async def running_job(it: World) -> FakeJob:
    it.node.script = run_forever
    client = await it.client()
    job = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
    await it.until(job.uuid, "RUNNING")
    return it.node.jobs[job.uuid]


def test_history_then_live_then_the_end(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_000)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client("viewer-client")
            it.node.print(job, data[:1_000_000])
            readers = [
                asyncio.ensure_future(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)))) for _ in range(5)
            ]
            for position in range(1_000_000, 3_000_000, 100_000):
                it.node.print(job, data[position : position + 100_000])
                await asyncio.sleep(0)
            it.node.ended(job, "COMPLETED", 0)
            for reader in readers:
                assert await reader == data
            late = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, offset=2_999_990))
            assert await output(late) == data[-10:]

    asyncio.run(scenario())


def test_a_logstore_that_is_killed_again_and_again(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(4_000_000)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            reader = asyncio.ensure_future(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))))
            for position in range(0, 4_000_000, 500_000):
                it.node.print(job, data[position : position + 500_000])
                seen = len(it.node.read_requests)
                await it.node.logstore_down()
                await it.node.logstore_up()
                async with asyncio.timeout(120):
                    while len(it.node.read_requests) == seen:
                        await asyncio.sleep(0.01)
            it.node.ended(job, "COMPLETED", 0)
            assert await reader == data
            assert it.node.read_requests == sorted(it.node.read_requests)

    asyncio.run(scenario())


def test_a_logstore_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GIVE_UP_SECONDS", 0.2)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            await it.node.logstore_down()
            assert await failure(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)))) == (
                "UNAVAILABLE", "node node-1 is not available: its logstore cannot be reached",
            )  # fmt: skip

    asyncio.run(scenario())


def test_ok_only_after_the_end_is_in_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            it.node.print(job, b"all")
            await it.node.executor_down()
            reader = asyncio.ensure_future(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))))
            it.node.ended(job, "COMPLETED", 0)  # the logstore knows, the gateway cannot yet
            done, _ = await asyncio.wait({reader}, timeout=0.5)
            assert not done
            await it.node.executor_up()
            assert await reader == b"all"
            assert (await it.status(job.spec.job_id)).status == "COMPLETED"

    asyncio.run(scenario())


def test_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            job.has_log = False
            client = await it.client()
            none_yet = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, noFollow=True))
            assert await output(none_yet) == b""
            reader = asyncio.ensure_future(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))))
            async with asyncio.timeout(120):
                while len(it.node.read_requests) < 3:
                    await asyncio.sleep(0.01)
            job.has_log = True
            it.node.print(job, b"here")
            it.node.ended(job, "COMPLETED", 0)
            assert await reader == b"here"

    asyncio.run(scenario())


def test_a_log_that_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.ended(job, "COMPLETED", 0)
            await it.until(job.spec.job_id, "COMPLETED")
            job.has_log = False
            client = await it.client()
            assert await failure(output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)))) == (
                "NOT_FOUND", f"log not found for job: {job.spec.job_id}",
            )  # fmt: skip

    asyncio.run(scenario())


def test_without_following(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"so far")
            client = await it.client()
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, noFollow=True))) == b"so far"

    asyncio.run(scenario())


def test_a_logstore_with_less_patience_than_the_gateway_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, bytes(range(256)) * 1024)
            it.node.ended(job, "COMPLETED", 0)
            it.node.impatient = 2
            client = await it.client()
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))) == bytes(job.output)
            assert it.node.read_requests == [0, 65536, 131072]

    asyncio.run(scenario())


def test_the_last_lines_then_live_through_restarts_of_the_logstore(tmp_path: Path) -> None:
    """Where the output wanted begins is asked for once: lines that come meanwhile do not move it."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"one\ntwo\nthree\n")
            client = await it.client()
            call = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, tailLines=0))
            begin = await call.read()
            assert begin == job_pb2.DataChunk(offset=14)
            await it.node.logstore_down()
            it.node.print(job, b"four\nfive\n")
            await it.node.logstore_up()
            assert await call.read() == job_pb2.DataChunk(payload=b"four\nfive\n", offset=14)
            assert it.node.last_read == ReadLogsRequest(job_id=job.spec.job_id, offset=14)
            it.node.ended(job, "COMPLETED", 0)
            assert await call.read() is grpc.aio.EOF

    asyncio.run(scenario())


def test_a_stream_that_ends_at_a_time_does_not_wait_for_the_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            job.has_log = False
            client = await it.client()
            until = Timestamp(seconds=int(time.time()) - 1)
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, until=until))) == b""

    asyncio.run(scenario())


def test_what_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job_id = (await running_job(it)).spec.job_id
            client = await it.client()

            async def refusal(**fields: object) -> tuple[str, str]:
                return await failure(output(client.GetJobLogs(GetJobLogsReq(uuid=job_id, **fields))))  # type: ignore[arg-type]

            assert await refusal(offset=-1) == ("INVALID_ARGUMENT", "offset must not be negative: -1")
            assert (await refusal(tailLines=-1))[0] == "INVALID_ARGUMENT"
            assert (await refusal(offset=10, noFollow=True))[0] == "OUT_OF_RANGE"

    asyncio.run(scenario())


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            it.node.print(job, b"x" * 1_000_000)
            channel = await it.channel()
            client = await it.client()
            calls = [client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)) for _ in range(10)]
            for call in calls:
                await call.read()
            waiting = [asyncio.ensure_future(client.WaitJob(job_pb2.WaitJobReq(uuid=job.spec.job_id)))]
            async with asyncio.timeout(120):
                while it.node.readers != 10 or not len(it.gateway.changes):
                    await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            waiting[0].cancel()
            await channel.close()
            async with asyncio.timeout(120):
                while it.node.readers or len(it.gateway.changes):
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_client_that_takes_nothing_is_sent_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, reader_timeout_seconds=0.5) as it:
            job = await running_job(it)
            it.node.print(job, b"x" * 64_000_000)
            client = await it.client()
            stuck = client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id))
            await stuck.read()
            async with asyncio.timeout(120):
                while it.node.readers or it.node.read_requests != [0]:
                    await asyncio.sleep(0.01)
            received = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while isinstance(chunk := await stuck.read(), job_pb2.DataChunk):
                    received = chunk.offset + len(chunk.payload)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.details() == (
                "reader too slow: it took nothing for 0.5 s; read on from the offset that was reached"
            )
            assert 0 < received < 64_000_000

    asyncio.run(scenario())


def test_a_finished_job_on_a_node_nobody_knows_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            values = job_values("abcd0000-0000-4000-8000-000000000000", node_id="gone", state=JobState.COMPLETED)
            await it.gateway.database.write(job_queries.insert_job, values, [])
            client = await it.client()
            assert await failure(output(client.GetJobLogs(GetJobLogsReq(uuid="abcd0000")))) == (
                "UNAVAILABLE", "node gone is not available: it is not registered",
            )  # fmt: skip

    asyncio.run(scenario())


def test_the_log_of_a_short_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            client = await it.client()
            for _ in range(30):
                job = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
                assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.uuid))) == b"true"
                assert (await it.status(job.uuid)).status == "COMPLETED"

    asyncio.run(scenario())


def test_the_archive_is_asked_for_only_when_the_job_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            await output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id, noFollow=True)))
            assert not it.node.last_read.search_archive
            it.node.ended(job, "COMPLETED", 0)
            await it.until(job.spec.job_id, "COMPLETED")
            await output(client.GetJobLogs(GetJobLogsReq(uuid=job.spec.job_id)))
            assert it.node.last_read.search_archive

    asyncio.run(scenario())


def test_when_the_node_is_gone_another_one_reads_from_the_archive(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job = await running_job(it)
            client = await it.client()
            it.node.print(job, b"all of it")
            it.node.ended(job, "COMPLETED", 0)
            await it.until(job.spec.job_id, "COMPLETED")
            other = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(other.down)
            await other.up()
            await it.beat(other)
            await it.node.down()
            other.finished[job.spec.job_id] = job  # what the archive has
            request = GetJobLogsReq(uuid=job.spec.job_id)
            async with asyncio.timeout(120):
                assert await output(client.GetJobLogs(request)) == b"all of it"
            assert other.last_read.search_archive

    asyncio.run(scenario())
