"""What a job prints as it exits is in its log: thousands of jobs that print one byte, each followed from its start."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import proofs
import pytest
from local_system import LocalSystem
from vitals import credentials

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.root, pytest.mark.slow]

JOBS = proofs.size(300, 10_000)
AT_ONCE = 16
TIMEOUT_SECONDS = 240.0


async def one(client: job_pb2_grpc.JobServiceAsyncStub) -> bytes:
    """A job's whole output, asked for as soon as the job exists."""
    request = job_pb2.RunJobReq(command="sh", args=["-c", "printf x; exit"], network="none", maxMemory=16)
    job = (await client.RunJob(request, timeout=TIMEOUT_SECONDS)).job
    wanted = job_pb2.GetJobLogsReq(uuid=job.uuid)
    return b"".join([chunk.payload async for chunk in client.GetJobLogs(wanted, timeout=TIMEOUT_SECONDS)])


async def outputs(joblet: LocalSystem) -> Counter[bytes]:
    """How often which output was seen."""
    seen: Counter[bytes] = Counter()
    left = iter(range(JOBS))

    async def worker(client: job_pb2_grpc.JobServiceAsyncStub) -> None:
        for _ in left:
            seen[await one(client)] += 1

    async with grpc.aio.secure_channel(joblet.address, credentials(joblet, "client")) as channel:
        client = job_pb2_grpc.JobServiceStub(channel)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker(client))
    return seen


def test_one_byte_each(own_joblet: LocalSystem) -> None:
    assert asyncio.run(outputs(own_joblet)) == {b"x": JOBS}
