"""Outputs of jobs and of their attempts, over real TLS, with a node that has what the test says."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from joblet.api import job_pb2
from joblet.api.job_pb2 import GetJobOutputReq, ListJobOutputsReq, RetryPolicy
from joblet.gateway import retry
from joblet.gateway.testing import FakeJob, FakeNode, World, failure, world

if TYPE_CHECKING:
    from joblet.api.job_pb2_grpc import JobServiceAsyncStub

PATTERN = "result"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts, where a test does not ask for one."""
    monkeypatch.setattr(retry, "DEFAULT_BACKOFF_SECONDS", 0)


async def fails(node: FakeNode, job: FakeJob) -> None:
    """Leaves its number in every attempt but the last, the third."""
    node.started(job)
    if job.spec.attempt < 3:
        node.outputs[job.spec.job_id] = {PATTERN: str(job.spec.attempt).encode()}
    node.ended(job, "FAILED", 1)


async def run(client: "JobServiceAsyncStub", retries: int, backoff_seconds: int = 0) -> str:
    policy = RetryPolicy(maxRetries=retries, backoffSeconds=backoff_seconds)
    request = job_pb2.RunJobReq(command="false", outputs=[PATTERN], retry=policy)
    return (await client.RunJob(request)).job.uuid


async def three_attempts(it: World, client: "JobServiceAsyncStub") -> str:
    it.node.script = fails
    job_id = await run(client, 2)
    await client.WaitJob(job_pb2.WaitJobReq(uuid=job_id, timeoutSeconds=120))
    return job_id


async def read(client: "JobServiceAsyncStub", job_id: str, attempt: int = 0, path: str = "") -> bytes:
    call = client.GetJobOutput(GetJobOutputReq(uuid=job_id, attempt=attempt, path=path))
    return b"".join([chunk.payload async for chunk in call])


async def refused(call: Any) -> tuple[str, str, str]:
    """Code, text and hint."""
    metadata: dict[str, Any] = {}

    async def keeping() -> None:
        try:
            await call
        except Exception as error:
            metadata.update(dict(error.trailing_metadata()))  # type: ignore[attr-defined]
            raise

    code, text = await failure(keeping())
    return code, text, str(metadata.get("joblet-hint", ""))


def test_each_attempt_has_outputs_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id = await three_attempts(it, client)
            assert await read(client, job_id, 1) == b"1"
            assert await read(client, job_id[:8], 2, PATTERN) == b"2"
            page = await client.ListJobOutputs(ListJobOutputsReq(uuid=job_id, attempt=2))
            assert [file.path for file in page.files] == [PATTERN]
            assert page.attempt == 2
            assert [(some.number, some.sizeBytes, some.unavailable) for some in page.attempts] == [
                (1, 1, ""),
                (2, 1, ""),
            ]
            none = (
                "NOT_FOUND", f"no outputs are kept of job {job_id}, attempt 3",
                "outputs are kept of attempt 1, 2: rnx job get --attempt",
            )  # fmt: skip
            assert await refused(client.ListJobOutputs(ListJobOutputsReq(uuid=job_id))) == none
            for attempt, code, text in (
                (4, "NOT_FOUND", f"job not found: {job_id}, attempt 4"),
                (-1, "INVALID_ARGUMENT", "attempt must not be negative: -1"),
            ):
                assert await failure(read(client, job_id, attempt)) == (code, text)
                listing = ListJobOutputsReq(uuid=job_id, attempt=attempt)
                assert await failure(client.ListJobOutputs(listing)) == (code, text)

    asyncio.run(scenario())


def test_patterns_that_found_nothing_are_named(tmp_path: Path) -> None:
    async def leaves_nothing(node: FakeNode, job: FakeJob) -> None:
        node.started(job)
        node.outputs[job.spec.job_id] = {}
        node.ended(job, "COMPLETED", 0)

    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = leaves_nothing
            client = await it.client()
            for patterns, shown in ((["*.log"], '"*.log"'), (["a", "b\n", "c", "d"], '"a", "b\\n", "c", ...')):
                job_id = (await client.RunJob(job_pb2.RunJobReq(command="x", outputs=patterns))).job.uuid
                await client.WaitJob(job_pb2.WaitJobReq(uuid=job_id, timeoutSeconds=120))
                assert await refused(read(client, job_id)) == (
                    "NOT_FOUND", f"no outputs are kept of job {job_id}: nothing to keep was found for {shown}",
                    "rnx job status says what was left out, if anything was",
                )  # fmt: skip
                assert (await client.ListJobOutputs(ListJobOutputsReq(uuid=job_id))).files == []

    asyncio.run(scenario())


def test_where_to_go_on_is_for_the_node_to_say(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job_id = await three_attempts(it, client)
            call = client.GetJobOutput(GetJobOutputReq(uuid=job_id, attempt=1, path=PATTERN, offset=7))
            assert [chunk async for chunk in call]
            asked = it.node.read_outputs[-1]
            assert (asked.uuid, asked.path, asked.offset) == (job_id, PATTERN, 7)
            wrong = client.GetJobOutput(GetJobOutputReq(uuid=job_id, offset=-1))
            assert await failure(anext(aiter(wrong))) == ("INVALID_ARGUMENT", "offset must not be negative: -1")

    asyncio.run(scenario())


def test_the_node_learns_which_attempts_it_had_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            job_id = await three_attempts(it, await it.client())
            jobs = it.node.jobs | it.node.finished
            first, second, third = (jobs[name].spec for name in dict.fromkeys(it.node.starts))
            assert (first.job_id, list(first.earlier_attempts)) == (job_id, [])
            assert [(one.number, one.job_id) for one in second.earlier_attempts] == [(1, first.job_id)]
            assert [(one.number, one.job_id) for one in third.earlier_attempts] == [
                (1, first.job_id), (2, second.job_id),
            ]  # fmt: skip

    asyncio.run(scenario())


def test_before_the_end_of_the_job_those_of_attempts_that_have_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = fails
            client = await it.client()
            job_id = await run(client, 2, backoff_seconds=3600)
            await it.until(job_id, "SCHEDULED")
            assert await read(client, job_id, 1) == b"1"
            code, text, hint = await refused(read(client, job_id))
            assert (code, text) == ("FAILED_PRECONDITION", f"job has not ended: {job_id} (current status: SCHEDULED)")
            assert hint.endswith("of attempts before this one: --attempt 1 to 1")
            await client.CancelJob(job_pb2.CancelJobReq(uuid=job_id))
            code, text, hint = await refused(read(client, job_id))
            assert (code, text) == ("NOT_FOUND", f"no outputs are kept of job {job_id}, attempt 2: it never ran")
            assert hint == "outputs are kept of attempt 1: rnx job get --attempt"

    asyncio.run(scenario())


def test_attempts_on_a_node_that_does_not_answer_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            second = FakeNode(it.bundle, node_id="node-2")
            it.stack.push_async_callback(second.down)

            go = asyncio.Event()

            async def moves(node: FakeNode, job: FakeJob) -> None:
                """The second attempt comes when the other node is there, and another job waits for this one."""
                node.started(job)
                if job.spec.command == "sleep":
                    return
                node.outputs[job.spec.job_id] = {PATTERN: b"kept"}
                if job.spec.attempt == 1:
                    await go.wait()
                node.ended(job, "FAILED" if job.spec.attempt == 1 else "COMPLETED", 0)

            it.node.script = second.script = moves
            client = await it.client()
            job_id = await run(client, 1)
            await second.up()
            await it.beat(second)
            await client.RunJob(job_pb2.RunJobReq(command="sleep", nodeId="node-1"))
            go.set()
            await it.until(job_id, "COMPLETED")
            await it.node.executor_down()
            page = await client.ListJobOutputs(ListJobOutputsReq(uuid=job_id))
            assert (page.attempt, [some.number for some in page.attempts]) == (2, [1, 2])
            assert "node node-1 is not available" in page.attempts[0].unavailable
            assert page.attempts[1].unavailable == ""
            assert not second.jobs[next(iter(second.starts))].spec.earlier_attempts, "that was on another node"

    asyncio.run(scenario())
