"""Jobs that wait, over real TLS, with a node that does what the test says."""

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from joblet.api import job_pb2
from joblet.common.errors import ResourceExhausted
from joblet.common.pki import write_bundle
from joblet.gateway.testing import NODE, FakeJob, FakeNode, failure, output, run_forever, run_true, world
from joblet.gateway.uploads import directory_of

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub


async def run(client: "JobServiceAsyncStub", **fields: Any) -> job_pb2.GetJobStatusRes:
    return (await client.RunJob(job_pb2.RunJobReq(**({"command": "true"} | fields)))).job


async def status(client: "JobServiceAsyncStub", job_id: str) -> job_pb2.GetJobStatusRes:
    return await client.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id))


async def stop(client: "JobServiceAsyncStub", job_id: str) -> job_pb2.GetJobStatusRes:
    return (await client.StopJob(job_pb2.StopJobReq(uuid=job_id))).job


async def cancel(client: "JobServiceAsyncStub", job_id: str) -> job_pb2.GetJobStatusRes:
    return (await client.CancelJob(job_pb2.CancelJobReq(uuid=job_id))).job


def test_a_job_waits_for_room_and_says_for_what(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            first = await run(client, maxMemory=7000)
            second = await run(client, maxMemory=2048, priority=0)
            third = await run(client)
            assert (first.status, second.status, third.status) == ("INITIALIZING", "PENDING", "PENDING")
            assert (second.reason, second.message, second.queuePosition, second.queueLength, second.nodeId) == (
                "memory", "waiting for memory on node node-1: needs 2048 MB, 1192 MB free; place 1 of 1 in the queue",
                1, 1, "",
            )  # fmt: skip
            assert (third.reason, third.message, third.queuePosition) == (
                "queue", "waiting for those before it; place 2 of 2 in the queue", 2,
            )  # fmt: skip
            listed = (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            assert [job.status for job in listed][1:] == ["PENDING", "PENDING"]
            await stop(client, first.uuid)
            assert (await it.until(second.uuid, "RUNNING")).nodeId == NODE
            placed = await it.until(third.uuid, "RUNNING")
            assert (placed.reason, placed.message, placed.queuePosition) == ("", "", 0)
            assert it.node.starts == [first.uuid, second.uuid, third.uuid]

    asyncio.run(scenario())


def test_never_more_than_the_cap(tmp_path: Path) -> None:
    most = 0
    all_submitted = asyncio.Event()

    async def briefly(node: FakeNode, job: FakeJob) -> None:
        nonlocal most
        node.started(job)
        most = max(most, sum(1 for other in node.jobs.values() if other.outcome is None))
        await all_submitted.wait()
        node.ended(job, "COMPLETED", 0)

    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=3) as it:
            it.node.script = briefly
            client = await it.client()
            jobs = [await run(client) for _ in range(60)]
            assert [job.status for job in jobs] == ["INITIALIZING"] * 3 + ["PENDING"] * 57
            all_submitted.set()
            for job in jobs:
                await it.until(job.uuid, "COMPLETED")
            assert sorted(it.node.starts) == sorted(job.uuid for job in jobs)
            assert most == 3
            assert it.registry.get_sample_value("joblet_queue_wait_seconds_count") == 57

    asyncio.run(scenario())


def test_higher_priorities_go_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client)
            low, normal, high = [(await run(client, priority=priority)).uuid for priority in (-5, 0, 1000)]
            assert [(await status(client, job_id)).queuePosition for job_id in (low, normal, high)] == [3, 2, 1]
            it.node.script = run_true
            await stop(client, running.uuid)
            assert (await it.until(low, "COMPLETED")).priority == -5
            assert it.node.starts == [running.uuid, high, normal, low]
            for bad in (1001, -1001):
                assert await failure(run(client, priority=bad)) == (
                    "INVALID_ARGUMENT", f"invalid priority: expected a number from -1000 to 1000, got {bad}",
                )  # fmt: skip

    asyncio.run(scenario())


@pytest.mark.parametrize("take_out", [stop, cancel])
def test_stopping_and_canceling_take_jobs_out(tmp_path: Path, take_out: Any) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client, maxMemory=8000)
            big, small = await run(client, maxMemory=4096), await run(client, maxMemory=100)
            waiter = asyncio.ensure_future(client.WaitJob(job_pb2.WaitJobReq(uuid=big.uuid)))
            gone = await take_out(client, big.uuid[:8])
            assert (gone.status, gone.reason, gone.exitCode, gone.queuePosition) == ("CANCELED", "canceled", -1, 0)
            assert gone.endTime
            assert (await waiter).job.status == "CANCELED"
            await it.until(small.uuid, "RUNNING")  # nobody is before it any more
            assert await output(client.GetJobLogs(job_pb2.GetJobLogsReq(uuid=big.uuid))) == b""
            assert await failure(stop(client, big.uuid)) == (
                "FAILED_PRECONDITION", f"job is not running: {big.uuid} (current status: CANCELED)",
            )  # fmt: skip
            assert await failure(cancel(client, running.uuid)) == (
                "FAILED_PRECONDITION", f"job cannot be canceled: {running.uuid} (current status: RUNNING)",
            )  # fmt: skip
            assert it.node.starts == [running.uuid, small.uuid]

    asyncio.run(scenario())


def test_following_the_log_of_a_job_that_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            it.node.script = run_forever
            client = await it.client()
            running, waiting = await run(client), await run(client)
            now = job_pb2.GetJobLogsReq(uuid=waiting.uuid, noFollow=True)
            assert await output(client.GetJobLogs(now)) == b""
            reader = asyncio.ensure_future(output(client.GetJobLogs(job_pb2.GetJobLogsReq(uuid=waiting.uuid))))
            it.node.script = run_true
            await stop(client, running.uuid)
            assert await reader == b"true"

    asyncio.run(scenario())


def test_the_queue_and_its_secrets_outlive_the_gateway(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = run_forever
        try:
            async with world(tmp_path, bundle=bundle, node=node, max_concurrent_jobs=1) as it:
                client = await it.client()
                running = await run(client)
                upload = job_pb2.FileUpload(path="f", content=b"content")
                waiting = await run(client, secretEnvironment={"A": "canary-19f"}, uploads=[upload])
                last = await run(client)
            assert not any(b"canary-19f" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
            async with world(tmp_path, bundle=bundle, node=node, max_concurrent_jobs=1) as it:
                client = await it.client()
                assert (await status(client, last.uuid)).queuePosition == 2
                await stop(client, running.uuid)
                await it.until(waiting.uuid, "RUNNING")
                spec = node.jobs[waiting.uuid].spec
                assert (dict(spec.secret_environment), spec.uploads[0].content) == ({"A": "canary-19f"}, b"content")
                node.ended(node.jobs[waiting.uuid], "COMPLETED", 0)
                await it.until(last.uuid, "RUNNING")
            assert node.starts == [running.uuid, waiting.uuid, last.uuid]
        finally:
            await node.down()

    asyncio.run(scenario())


def test_an_end_that_nobody_saw_lets_the_next_one_start(tmp_path: Path) -> None:
    """The job before ends while no gateway is there."""
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = run_forever
        try:
            async with world(tmp_path, bundle=bundle, node=node, max_concurrent_jobs=1) as it:
                client = await it.client()
                running, waiting = await run(client), await run(client)
            node.ended(node.jobs[running.uuid], "COMPLETED", 0)
            async with world(tmp_path, bundle=bundle, node=node, max_concurrent_jobs=1) as it:
                await it.until(waiting.uuid, "RUNNING")
        finally:
            await node.down()

    asyncio.run(scenario())


def test_a_node_that_has_no_room_after_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client)
            it.node.refuse = ResourceExhausted("this node runs 1 jobs already")
            waiting = await run(client)
            assert (waiting.status, waiting.reason) == ("PENDING", "max-concurrent-jobs")
            assert "which takes no more for now" in waiting.message
            assert (await run(client)).status == "PENDING"
            assert it.node.starts == [running.uuid, waiting.uuid]
            it.node.refuse = None
            it.node.ended(it.node.jobs[running.uuid], "COMPLETED", 0)
            await it.until(waiting.uuid, "RUNNING")

    asyncio.run(scenario())


def test_jobs_wait_for_a_node_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            second = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(second.down)
            await second.up()
            await it.beat(second)
            it.node.script = second.script = run_forever
            client = await it.client()
            bound = [await run(client, nodeId=NODE) for _ in range(2)]
            assert [job.status for job in bound] == ["INITIALIZING", "PENDING"]
            assert (await run(client)).nodeId == "node-2"  # the one before waits for another node
            free = await run(client)
            assert free.status == "PENDING"
            second.ended(next(iter(second.jobs.values())), "COMPLETED", 0)
            assert (await it.until(free.uuid, "RUNNING")).nodeId == "node-2"

    asyncio.run(scenario())


def test_a_refused_job_makes_room(tmp_path: Path) -> None:
    """Jobs that end without an event of their node: the queue goes on all the same."""

    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client)
            refused = [await run(client), await run(client)]
            it.node.refuse = ResourceExhausted("no uid range is free")
            await stop(client, running.uuid)
            for job in refused:
                over = await it.until(job.uuid, "FAILED")
                assert (over.exitCode, over.reason) == (125, "launch-failed")

    asyncio.run(scenario())


def test_uploads_too_large_for_every_node_leave_nothing(tmp_path: Path) -> None:
    """Refused before their content is asked for; with a node that can take them the job waits for that one."""

    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            upload = job_pb2.FileUpload(path="big", size=1025 << 20, digest=f"sha256:{0:064}")
            code, text = await failure(run(client, uploads=[upload], maxMemory=2048))
            assert (code, text) == (
                "INVALID_ARGUMENT",
                'job creation failed: uploads of 1025.0 MB do not fit into the job\'s /work: "big" has 1025.0 MB',
            )  # fmt: skip
            upload.size = 1024 << 20
            code, text = await failure(run(client, uploads=[upload], maxMemory=2048))
            assert (code, text[:25]) == ("FAILED_PRECONDITION", 'uploads: "big": its conte')
            assert not (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            assert it.node.starts == []

    asyncio.run(scenario())


def test_a_job_says_that_no_node_has_room_for_its_uploads_any_more(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client)
            waiting = await run(client, uploads=[job_pb2.FileUpload(path="f", content=bytes(5000))])
            assert waiting.reason == "max-concurrent-jobs"
            it.node.work_bytes = 4096
            await it.heartbeat()
            await stop(client, running.uuid)
            now = await status(client, waiting.uuid)
            assert (now.status, now.reason, now.message) == (
                "PENDING", "node",
                "waiting for a node with room for uploads of 5000 bytes: there is one for at most 4096;"
                " place 1 of 1 in the queue",
            )  # fmt: skip
            it.node.work_bytes = 8192
            await it.heartbeat()
            await it.until(waiting.uuid, "RUNNING")

    asyncio.run(scenario())


def test_a_repeated_request_is_its_job_also_when_its_upload_has_gone(tmp_path: Path) -> None:
    content = b"content"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            client = await it.client()
            await client.Upload(iter([job_pb2.UploadChunk(digest=digest, payload=content)]))
            upload = job_pb2.FileUpload(path="f", size=len(content), digest=digest)
            job = await run(client, uploads=[upload], requestId="r")
            await it.until(job.uuid, "COMPLETED")
            (kept,) = directory_of(it.config.gateway).iterdir()
            kept.unlink()
            assert (await run(client, uploads=[upload], requestId="r")).uuid == job.uuid
            assert (await failure(run(client, uploads=[upload])))[0] == "FAILED_PRECONDITION"

    asyncio.run(scenario())
