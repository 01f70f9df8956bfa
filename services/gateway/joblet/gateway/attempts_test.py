"""Jobs that are retried, over real TLS, with a node that does what the test says."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from joblet.api import job_pb2
from joblet.api.job_pb2 import GetJobLogsReq, RetryPolicy
from joblet.common.errors import Internal, InvalidArgument
from joblet.common.pki import write_bundle
from joblet.gateway import retry
from joblet.gateway.store.database import Database
from joblet.gateway.testing import NODE, FakeJob, FakeNode, failure, output, run_forever, run_true, world

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub

Script = Callable[[FakeNode, FakeJob], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts, where a test does not ask for one."""
    monkeypatch.setattr(retry, "DEFAULT_BACKOFF_SECONDS", 0)


def flaky(failures: int, exit_code: int = 3) -> Script:
    """Fails so often, then succeeds; prints which attempt it is."""

    async def script(node: FakeNode, job: FakeJob) -> None:
        node.started(job)
        node.print(job, f"attempt {job.spec.attempt}\n".encode())
        failed = job.spec.attempt <= failures
        node.ended(job, "FAILED" if failed else "COMPLETED", exit_code if failed else 0)

    return script


async def run(client: "JobServiceAsyncStub", retries: int, **fields: Any) -> job_pb2.GetJobStatusRes:
    """`fields` of RetryPolicy and of RunJobReq."""
    policy = {name: fields.pop(name) for name in list(fields) if name in RetryPolicy.DESCRIPTOR.fields_by_name}
    request = job_pb2.RunJobReq(command="true", retry=RetryPolicy(maxRetries=retries, **policy), **fields)
    return (await client.RunJob(request)).job


async def wait(client: "JobServiceAsyncStub", job_id: str) -> job_pb2.GetJobStatusRes:
    return (await client.WaitJob(job_pb2.WaitJobReq(uuid=job_id, timeoutSeconds=120))).job


def test_a_flaky_job_is_tried_until_it_succeeds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = flaky(2)
            client = await it.client()
            upload = job_pb2.FileUpload(path="f", content=b"content")
            job = await run(client, 5, secretEnvironment={"A": "s"}, uploads=[upload])
            over = await wait(client, job.uuid)
            assert (over.status, over.exitCode, over.attempt, over.retry.maxRetries) == ("COMPLETED", 0, 3, 5)
            assert [(one.number, one.status, one.exitCode, one.reason) for one in over.attempts] == [
                (1, "FAILED", 3, "exit"), (2, "FAILED", 3, "exit"), (3, "COMPLETED", 0, "exit"),
            ]  # fmt: skip
            assert all(one.startTime and one.endTime and one.nodeId == NODE for one in over.attempts)
            jobs = it.node.finished | it.node.jobs
            assert [jobs[name].spec.attempt for name in dict.fromkeys(it.node.starts)] == [1, 2, 3]
            assert len(jobs) == 3
            assert {one.spec.shown_id for one in jobs.values()} == {job.uuid}
            assert all(dict(one.spec.secret_environment) == {"A": "s"} for one in jobs.values())
            assert all(one.spec.uploads[0].content == b"content" for one in jobs.values())
            assert await it.gateway.database.read(_payloads) == 0
            (listed,) = (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            assert (listed.id, listed.status) == (job.uuid, "COMPLETED")

    asyncio.run(scenario())


def _payloads(connection: Any) -> int:
    count: int = connection.exec_driver_sql("SELECT count(*) FROM payloads").scalar()
    return count


def test_no_more_attempts_than_allowed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = flaky(99)
            client = await it.client()
            over = await wait(client, (await run(client, 2)).uuid)
            assert (over.status, over.exitCode, over.attempt, len(over.attempts)) == ("FAILED", 3, 3, 3)
            over = await wait(client, (await run(client, 2, nonRetriableExitCodes=[3])).uuid)
            assert (over.status, over.attempt, len(over.attempts)) == ("FAILED", 1, 1)
            over = await wait(client, (await run(client, 0)).uuid)
            assert (over.status, len(over.attempts)) == ("FAILED", 0)

    asyncio.run(scenario())


def test_the_output_of_every_attempt_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = flaky(2)
            client = await it.client()
            job = await run(client, 2)
            everything = b"attempt 1\nattempt 2\nattempt 3\n"
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.uuid))) == everything
            assert (await it.status(job.uuid)).status == "COMPLETED"
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=job.uuid, noFollow=True))) == everything
            for offset in range(len(everything)):
                rest = GetJobLogsReq(uuid=job.uuid, offset=offset)
                chunks = [chunk async for chunk in client.GetJobLogs(rest)]
                assert b"".join(chunk.payload for chunk in chunks) == everything[offset:]
                assert not chunks or chunks[0].offset == offset
            for number in (1, 2, 3):
                one = GetJobLogsReq(uuid=job.uuid, attempt=number)
                assert await output(client.GetJobLogs(one)) == f"attempt {number}\n".encode()
            missing = GetJobLogsReq(uuid=job.uuid, attempt=4)
            assert await failure(output(client.GetJobLogs(missing))) == (
                "NOT_FOUND", f"job not found: {job.uuid}, attempt 4",
            )  # fmt: skip
            negative = GetJobLogsReq(uuid=job.uuid, attempt=-1)
            assert (await failure(output(client.GetJobLogs(negative))))[0] == "INVALID_ARGUMENT"

    asyncio.run(scenario())


def test_backoff_outlives_the_gateway(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = flaky(1)
        try:
            async with world(tmp_path, bundle=bundle, node=node) as it:
                client = await it.client()
                job = await run(client, 1, backoffSeconds=3600)
                waiting = await it.until(job.uuid, "SCHEDULED")
                assert (waiting.reason, waiting.message, waiting.attempt) == (
                    "schedule", "waiting for attempt 2 of 2", 2,
                )  # fmt: skip
                assert [one.status for one in waiting.attempts] == ["FAILED"]
                assert waiting.scheduledTime
                assert len(node.starts) == 1
            with Database(it.config.gateway.database) as database:
                await database.write(_pass_the_time)
            async with world(tmp_path, bundle=bundle, node=node) as it:
                over = await it.until(job.uuid, "COMPLETED")
                assert [one.status for one in over.attempts] == ["FAILED", "COMPLETED"]
            assert len(node.starts) == 2
        finally:
            await node.down()

    asyncio.run(scenario())


def _pass_the_time(connection: Any) -> None:
    connection.exec_driver_sql("UPDATE jobs SET due_ns = 1 WHERE state = 'SCHEDULED'")


def test_a_stop_is_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_forever
            client = await it.client()
            running = await run(client, 5)
            stopped = (await client.StopJob(job_pb2.StopJobReq(uuid=running.uuid))).job
            assert (stopped.status, stopped.attempt) == ("STOPPED", 1)
            it.node.script = flaky(99)
            waiting = await run(client, 5, backoffSeconds=3600)
            await it.until(waiting.uuid, "SCHEDULED")
            canceled = (await client.CancelJob(job_pb2.CancelJobReq(uuid=waiting.uuid))).job
            assert (canceled.status, [one.status for one in canceled.attempts]) == ("CANCELED", ["FAILED"])
            assert await output(client.GetJobLogs(GetJobLogsReq(uuid=waiting.uuid))) == b"attempt 1\n"

    asyncio.run(scenario())


def test_a_later_attempt_is_stopped_under_its_own_name(tmp_path: Path) -> None:
    async def fail_once(node: FakeNode, job: FakeJob) -> None:
        node.started(job)
        if job.spec.attempt == 1:
            node.ended(job, "FAILED", 1)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = fail_once
            client = await it.client()
            job = await run(client, 5)
            async with asyncio.timeout(120):
                while (now := await it.status(job.uuid)).attempt != 2 or now.status != "RUNNING":
                    await asyncio.sleep(0.01)
            stopped = (await client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))).job
            assert (stopped.status, [one.status for one in stopped.attempts]) == ("STOPPED", ["FAILED", "STOPPED"])

    asyncio.run(scenario())


def test_a_lost_node_and_what_comes_back_of_it(tmp_path: Path) -> None:
    """The attempt on the lost node is over; it is stopped when the node comes back, while the next one runs."""

    async def scenario() -> None:
        async with world(tmp_path, lease_seconds=1) as it:
            second = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(second.down)
            await second.up()
            it.node.script = second.script = run_forever
            client = await it.client()
            job = await run(client, 1)
            await it.until(job.uuid, "RUNNING")
            await it.node.executor_down()
            beating = asyncio.ensure_future(_beat_for_ever(it, second))
            try:
                async with asyncio.timeout(120):
                    while not second.jobs:
                        await asyncio.sleep(0.02)
                now = await it.until(job.uuid, "RUNNING")
                assert [(one.status, one.reason, one.nodeId) for one in now.attempts] == [
                    ("FAILED", "node-lost", "node-1"), ("RUNNING", "", "node-2"),
                ]  # fmt: skip
                await it.node.executor_up()
                await it.beat()
                async with asyncio.timeout(120):
                    while next(iter((it.node.jobs | it.node.finished).values())).status != "STOPPED":
                        await asyncio.sleep(0.02)
                assert (await it.status(job.uuid)).status == "RUNNING"
            finally:
                beating.cancel()

    asyncio.run(scenario())


async def _beat_for_ever(it: Any, node: FakeNode) -> None:
    while True:
        await it.heartbeat(node)
        await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(Internal("cgroup setup failed"), "SCHEDULED"), (InvalidArgument("no CPU 9", field="cpuCores"), None)],
)
def test_a_node_that_refuses(tmp_path: Path, refusal: Any, status: str | None) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.refuse = refusal
            client = await it.client()
            if status is None:
                assert (await failure(run(client, 3)))[0] == "INVALID_ARGUMENT"
                return
            job = await run(client, 3, backoffSeconds=1)
            assert (job.status, [one.reason for one in job.attempts]) == (status, ["launch-failed"])
            it.node.refuse, it.node.script = None, run_true
            assert (await wait(client, job.uuid)).status == "COMPLETED"

    asyncio.run(scenario())


def test_attempts_while_executor_and_gateway_restart(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = flaky(3)
        ids: list[str] = []
        try:
            for _ in range(3):
                async with world(tmp_path, bundle=bundle, node=node) as it:
                    client = await it.client()
                    for number in range(10):
                        ids.append((await run(client, 3)).uuid)
                        if number % 5 == 4:
                            await node.executor_down()
                            await node.executor_up()
            async with world(tmp_path, bundle=bundle, node=node) as it:
                client = await it.client()
                for job_id in ids:
                    over = await wait(client, job_id)
                    assert (over.status, over.attempt, len(over.attempts)) == ("COMPLETED", 4, 4)
                started = [event.job_id for event in node.events if event.WhichOneof("event") == "started"]
                assert len(started) == len(set(started)) == 4 * len(ids)  # each attempt ran once
        finally:
            await node.down()

    asyncio.run(scenario())


def test_deleting_takes_every_attempt(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = flaky(2)
            client = await it.client()
            job = await run(client, 2)
            await wait(client, job.uuid)
            executions = set(it.node.starts)
            assert len(executions) == 3
            await client.DeleteJob(job_pb2.DeleteJobReq(uuid=job.uuid))
            async with asyncio.timeout(120):
                while executions & {*it.node.jobs, *it.node.finished}:
                    await asyncio.sleep(0.01)
            assert await it.gateway.database.read(_attempts) == 0

    asyncio.run(scenario())


def _attempts(connection: Any) -> int:
    count: int = connection.exec_driver_sql("SELECT count(*) FROM attempts").scalar()
    return count
