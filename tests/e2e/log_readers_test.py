"""Any number of readers get every byte of a job's output, whenever they come and however slowly they read."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import proofs
import pytest
from local_system import LocalSystem
from random_output import MEBIBYTE, PROGRAM, digest
from vitals import credentials

from joblet.api import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.root, pytest.mark.slow]

SIZE = proofs.size(12, 200) * MEBIBYTE
SECONDS = proofs.size(3, 20)  # that the job takes for it
READERS = 64
TIMEOUT_SECONDS = 900.0


@asynccontextmanager
async def stub(joblet: LocalSystem) -> AsyncIterator[job_pb2_grpc.JobServiceAsyncStub]:
    """On a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 * MEBIBYTE)]
    async with grpc.aio.secure_channel(joblet.address, credentials(joblet, "client"), options) as channel:
        yield job_pb2_grpc.JobServiceStub(channel)


class Reader:
    """One stream and the digest of what it brought; every chunk must begin where the one before ended."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.position = 0
        self._digest = hashlib.sha256()

    async def read(self, joblet: LocalSystem) -> str:
        """To the end of the job; the digest."""
        async with stub(joblet) as client:
            await self.take(self.call(client))
        return self._digest.hexdigest()

    def call(self, client: job_pb2_grpc.JobServiceAsyncStub) -> grpc.aio.UnaryStreamCall:  # type: ignore[type-arg]
        """A stream from where this reader is."""
        request = job_pb2.GetJobLogsReq(uuid=self.job_id, offset=self.position)
        return client.GetJobLogs(request, timeout=TIMEOUT_SECONDS)

    async def take(self, call: grpc.aio.UnaryStreamCall, limit: int = SIZE) -> None:  # type: ignore[type-arg]
        """All that the stream brings, or at least `limit` bytes of it."""
        while self.position < limit and (chunk := await call.read()) is not grpc.aio.EOF:
            assert isinstance(chunk, job_pb2.DataChunk)
            assert chunk.offset == self.position
            self._digest.update(chunk.payload)
            self.position += len(chunk.payload)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


async def reading(joblet: LocalSystem, job_id: str) -> None:
    """One reader from the start brings the others along when it comes to random places; one more stalls."""
    places = sorted(random.Random(2).randrange(SIZE) for _ in range(READERS - 2))
    first, stalled = Reader(job_id), Reader(job_id)
    async with stub(joblet) as client, stub(joblet) as other, asyncio.TaskGroup() as group:
        call, stuck = first.call(client), stalled.call(other)
        await stalled.take(stuck, 1)  # and nothing more
        readers = []
        for place in places:
            await first.take(call, place)
            readers.append(group.create_task(Reader(job_id).read(joblet)))
        await first.take(call, SIZE + 1)
        digests = [first.digest, *[await reader for reader in readers]]
        try:
            await stalled.take(stuck, SIZE + 1)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "read on from the offset that was reached" in (error.details() or "")
            await stalled.take(stalled.call(other), SIZE + 1)
    assert [*digests, stalled.digest] == [digest(SIZE)] * READERS


def test_sixty_four_readers_and_one_of_them_stalls(joblet: LocalSystem) -> None:
    job_id = joblet.run("python3", "-c", PROGRAM, str(SIZE), str(SECONDS))
    asyncio.run(reading(joblet, job_id))
    assert joblet.status(job_id)["Status"] == "COMPLETED"
