"""What nodes have kept of ended jobs' /work, passed on to whoever asks."""

from collections.abc import AsyncIterator
from typing import Final

from joblet.api import job_pb2
from joblet.common.errors import FailedPrecondition
from joblet.gateway.jobs import Jobs
from joblet.gateway.nodes import Nodes
from joblet.gateway.store.model import Job

CALL_SECONDS: Final = 30.0


class Outputs:
    def __init__(self, jobs: Jobs, nodes: Nodes) -> None:
        self._jobs = jobs
        self._nodes = nodes

    async def read(self, request: job_pb2.GetJobOutputReq) -> AsyncIterator[job_pb2.OutputChunk]:
        """Raises FailedPrecondition for a job that has not ended, and what the node answers."""
        job = await self._ended(request.uuid)
        link = self._nodes.link(job.node_id)
        with link.errors():
            call = link.executor.ReadOutputs(job_pb2.GetJobOutputReq(uuid=job.execution, path=request.path))
            try:
                async for chunk in call:
                    yield chunk
            finally:
                call.cancel()

    async def page(self, request: job_pb2.ListJobOutputsReq) -> job_pb2.ListJobOutputsRes:
        """Raises as `read` does."""
        job = await self._ended(request.uuid)
        link = self._nodes.link(job.node_id)
        asked = job_pb2.ListJobOutputsReq(uuid=job.execution, pageToken=request.pageToken)
        answer: job_pb2.ListJobOutputsRes = await link.call(link.executor.ListOutputs, asked, CALL_SECONDS)
        return answer

    async def _ended(self, wanted: str) -> Job:
        job = await self._jobs.find(wanted)
        if not job.ended:
            raise FailedPrecondition(
                f"job has not ended: {job.id} (current status: {job.state})",
                hint="outputs are collected at its end; rnx job wait waits for it",
            )
        return job
