"""Times that jobs are to start at, and jobs that wait for theirs."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from joblet.api import job_pb2
from joblet.common.errors import InvalidArgument
from joblet.common.pki import write_bundle
from joblet.common.units import NS_PER_SECOND
from joblet.gateway import schedule
from joblet.gateway.testing import NODE, FakeNode, failure, run_forever, run_true, world

NOW = 1_705_314_600 * NS_PER_SECOND  # 2024-01-15T10:30:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("2min", 120), ("1h30m", 5400), ("1d", 86_400), ("0", 0), ("500ms", 0.5),
        ("2024-01-15T10:30:01Z", 1), ("2024-01-15T10:30:00.25Z", 0.25), ("2024-01-15t10:31z", 60),
        ("2024-01-15T12:30:00+02:00", 0), ("2024-01-15 05:30:00-05:00", 0), ("2024-01-15T00:00:00Z", -37_800),
        ("20240115T103001Z", 1),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert schedule.parse(text, NOW) == NOW + round(seconds * NS_PER_SECOND)


def test_no_time_is_at_once() -> None:
    assert schedule.parse("", NOW) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tomorrow", "expected an instant"), ("-5s", "expected an instant"), ("2024-13-01T00:00:00Z", "expected an"),
        ("2024-01-15T10:30:00", "has no time zone"), ("2024-01-15", "has no time zone"), (" ", "expected an instant"),
        ("12:30Z", "expected an instant"), ("1705314600", "expected an instant"), ("2024-02-30T00:00:00Z", "expected"),
        ("x" * 10_000, "expected an instant"),
    ],
)  # fmt: skip
def test_what_is_no_time(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^invalid schedule: .*{says}") as caught:
        schedule.parse(text, NOW)
    assert caught.value.field == "schedule"
    assert len(caught.value.message) < 300


def test_past_and_far_future() -> None:
    schedule.check(NOW - 9 * NS_PER_SECOND, NOW)
    schedule.check(NOW + 3650 * 86_400 * NS_PER_SECOND, NOW)
    with pytest.raises(InvalidArgument, match="^invalid schedule: 2024-01-15T10:29:49Z is in the past$"):
        schedule.check(NOW - 11 * NS_PER_SECOND, NOW)
    with pytest.raises(InvalidArgument, match="more than ten years ahead"):
        schedule.check(NOW + 3661 * 86_400 * NS_PER_SECOND, NOW)


def request(when: str, **fields: str) -> job_pb2.RunJobReq:
    return job_pb2.RunJobReq(command="true", schedule=when, **fields)  # type: ignore[arg-type]


def test_a_job_starts_when_its_time_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            it.node.script = run_true
            client = await it.client()
            later = (await client.RunJob(request("1h"))).job
            assert (later.status, later.reason, later.nodeId) == ("SCHEDULED", "schedule", "")
            assert later.scheduledTime > later.startTime
            soon = (await client.RunJob(request("50ms"))).job
            over = await it.until(soon.uuid, "COMPLETED")
            assert over.scheduledTime
            (job, _) = (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            assert (job.status, job.scheduledTime) == ("SCHEDULED", later.scheduledTime)
            assert it.node.starts == [soon.uuid]

    asyncio.run(scenario())


def test_what_is_due_waits_for_room_like_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, max_concurrent_jobs=1) as it:
            it.node.script = run_forever
            client = await it.client()
            running = (await client.RunJob(job_pb2.RunJobReq(command="true"))).job
            due = (await client.RunJob(request("0"))).job
            await it.until(due.uuid, "PENDING")
            await client.StopJob(job_pb2.StopJobReq(uuid=running.uuid))
            await it.until(due.uuid, "RUNNING")

    asyncio.run(scenario())


@pytest.mark.parametrize("stop", [True, False])
def test_canceling(tmp_path: Path, stop: bool) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            job = (await client.RunJob(request("1h"))).job
            if stop:
                gone = (await client.StopJob(job_pb2.StopJobReq(uuid=job.uuid))).job
            else:
                gone = (await client.CancelJob(job_pb2.CancelJobReq(uuid=job.uuid))).job
            assert (gone.status, gone.reason, gone.scheduledTime) == ("CANCELED", "canceled", job.scheduledTime)
            assert await failure(client.CancelJob(job_pb2.CancelJobReq(uuid=job.uuid))) == (
                "FAILED_PRECONDITION", f"job cannot be canceled: {job.uuid} (current status: CANCELED)",
            )  # fmt: skip

    asyncio.run(scenario())


def test_bad_times_store_nothing_and_a_repeated_request_is_not_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as it:
            client = await it.client()
            it.node.script = run_true
            for bad in ("2024-01-15T10:30:00Z", "soon", "2124-01-15T10:30:00Z"):
                assert (await failure(client.RunJob(request(bad))))[0] == "INVALID_ARGUMENT"
            assert not (await client.ListJobs(job_pb2.EmptyRequest())).jobs
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            first = (await client.RunJob(request(now, requestId="r"))).job
            monkeypatch.setattr(schedule, "TOLERANCE_SECONDS", -3600)  # as if an hour had passed
            assert (await client.RunJob(request(now, requestId="r"))).job.uuid == first.uuid
            assert (await failure(client.RunJob(request(now, requestId="s"))))[0] == "INVALID_ARGUMENT"

    asyncio.run(scenario())


def test_the_schedule_outlives_the_gateway(tmp_path: Path) -> None:
    """One time passes while no gateway runs, one is still to come."""
    bundle = write_bundle(tmp_path / "certs", node_id=NODE)

    async def scenario() -> None:
        node = FakeNode(bundle)
        node.script = run_true
        try:
            async with world(tmp_path, bundle=bundle, node=node) as it:
                client = await it.client()
                passing, coming = [(await client.RunJob(request("1h"))).job for _ in range(2)]
            assert node.starts == []
            with closing(sqlite3.connect(tmp_path / "gateway.db")) as store, store:  # as if an hour had passed
                store.execute("UPDATE jobs SET due_ns = ? WHERE id = ?", (time.time_ns(), passing.uuid))
            async with world(tmp_path, bundle=bundle, node=node) as it:
                await it.until(passing.uuid, "COMPLETED")
                assert (await it.status(coming.uuid)).status == "SCHEDULED"
            assert node.starts == [passing.uuid]
        finally:
            await node.down()

    asyncio.run(scenario())
