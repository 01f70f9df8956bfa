"""Deleting jobs: gone for clients at once, on their node as soon as it can be told, whatever is killed in between."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from joblet.api import job_pb2
from joblet.common.states import JobState, Reason
from joblet.gateway import deletion, forgetting
from joblet.gateway.store import deletion as queries
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.testing import job_values
from joblet.gateway.testing import NODE, World, failure, run_forever, run_true, world

DAY_NS = 86_400 * 10**9
TIMEOUT_SECONDS = 120.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(forgetting, "CALL_SECONDS", 1.0)


async def until(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not await met():
            await asyncio.sleep(0.01)


async def a_job(it: World, *, ends: bool = True) -> str:
    it.node.script = run_true if ends else run_forever
    client = await it.client()
    job_id = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job.uuid
    if ends:
        await client.WaitJob(job_pb2.WaitJobReq(uuid=job_id))
    return job_id


async def all_forgotten(it: World) -> bool:
    return not await it.gateway.database.read(queries.noted, NODE, 1)


def delete(job_id: str) -> job_pb2.DeleteJobReq:
    return job_pb2.DeleteJobReq(uuid=job_id)


def test_a_deleted_job_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id, other = await a_job(it), await a_job(it)
            assert (await client.DeleteJob(delete(job_id[:8]))).uuid == job_id
            for call in (
                client.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id)),
                client.DeleteJob(delete(job_id)),
                client.WaitJob(job_pb2.WaitJobReq(uuid=job_id)),
                client.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id)).read(),
            ):
                assert await failure(call) == ("NOT_FOUND", f"job not found: {job_id}")
            listed = await client.ListJobs(job_pb2.EmptyRequest())
            assert [job.id for job in listed.jobs] == [other]
            await until(lambda: all_forgotten(it))
            assert job_id not in it.node.finished

            async def other_is_kept() -> bool:
                return other in it.node.finished

            await until(other_is_kept)

    asyncio.run(scenario())


def test_what_has_not_ended_is_not_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            running = await a_job(it, ends=False)
            ended = await a_job(it)
            await it.until(running, "RUNNING")
            assert await failure(client.DeleteJob(delete(running))) == (
                "FAILED_PRECONDITION",
                f"job has not ended: {running} (current status: RUNNING)",
            )
            for state in (JobState.SCHEDULED, JobState.PENDING, JobState.INITIALIZING):
                name = f"{len(state):08x}-0000-4000-8000-000000000000"
                values = job_values(name, state=state, node_id="elsewhere", queued_ns=2**62)
                await it.gateway.database.write(job_queries.insert_job, values, [])
                code, text = await failure(client.DeleteJob(delete(name)))
                assert (code, text.endswith(f"(current status: {state})")) == ("FAILED_PRECONDITION", True)
            answer = await client.DeleteAllJobs(job_pb2.DeleteAllJobsReq())
            assert (answer.deleted, answer.skipped) == (1, 4)
            assert await failure(client.DeleteJob(delete(ended))) == ("NOT_FOUND", f"job not found: {ended}")
            assert (await client.GetJobStatus(job_pb2.GetJobStatusReq(uuid=running))).status == "RUNNING"

    asyncio.run(scenario())


def test_a_node_that_is_away_is_told_when_it_comes_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id = await a_job(it)
            await it.node.down()
            await client.DeleteJob(delete(job_id))
            assert not await all_forgotten(it)
        async with world(tmp_path, bundle=it.bundle, node=it.node) as again:
            await until(lambda: all_forgotten(again))
            assert (job_id in it.node.jobs, job_id in it.node.finished) == (False, False)
            await it.node.down()

    asyncio.run(scenario())


def test_a_logstore_that_is_away_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id = await a_job(it)
            await it.node.logstore_down()
            await client.DeleteJob(delete(job_id))
            assert not await all_forgotten(it)
            await it.node.logstore_up()
            await until(lambda: all_forgotten(it))
            assert job_id not in it.node.finished

    asyncio.run(scenario())


def test_a_lost_job_that_still_runs_is_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id = await a_job(it, ends=False)
            await it.until(job_id, "RUNNING")
            values = (job_id, JobState.FAILED, Reason.NODE_LOST, "", -1, 5)
            await it.gateway.database.write(job_queries.end, *values)
            await client.DeleteJob(delete(job_id))
            await until(lambda: all_forgotten(it))
            assert (job_id in it.node.jobs, job_id in it.node.finished) == (False, False)

    asyncio.run(scenario())


def test_jobs_are_kept_for_so_long_and_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "RETENTION_SECONDS", 0.01)
    monkeypatch.setattr(deletion, "GROUP", 3)

    async def scenario() -> None:
        async with world(tmp_path, job_retention_seconds=30 * 86_400.0, max_finished_jobs=6) as it:
            running = await a_job(it, ends=False)
            now_ns = time.time_ns()
            # Days since their ends, in order of submission. More than a group of early ones ended late.
            ages = [1, 1, 1, 1, 31, 31, 31, 31, 29, 2, 40, 1, 1]
            names = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(len(ages))]

            def fill(connection: object) -> None:
                for name, days in zip(names, ages, strict=True):
                    values = job_values(name, state=JobState.COMPLETED, ended_ns=now_ns - days * DAY_NS)
                    job_queries.insert_job(connection, values, [])  # type: ignore[arg-type]

            await it.gateway.database.write(fill)
            client = await it.client()

            async def kept() -> list[str]:
                return [job.id for job in (await client.ListJobs(job_pb2.EmptyRequest())).jobs]

            async def settled() -> bool:
                return await kept() == [running, *names[:4], *names[11:]]

            await until(settled)

    asyncio.run(scenario())
