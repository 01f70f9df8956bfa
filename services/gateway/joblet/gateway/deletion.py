"""Deleting jobs on request and when they are old enough, here and on their nodes.

A deleted job is gone for every client at once: its row, its output and what it left are not reachable any more. What
its node has of it is removed in the background (`joblet.gateway.forgetting`); until then the store keeps the job's id
and the node's, nothing else.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from joblet.api import job_pb2
from joblet.common import log
from joblet.common.config import JobletConfig
from joblet.common.errors import JobletError, Unavailable
from joblet.common.states import TERMINAL
from joblet.common.units import NS_PER_SECOND
from joblet.gateway.jobs import Jobs
from joblet.gateway.nodes import Nodes
from joblet.gateway.store import deletion as queries
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.database import Database

GROUP = 100  # jobs in one transaction; other calls are served in between
RETENTION_SECONDS = 60.0  # between two looks for jobs that are old enough

_log = log.get_logger(__name__)


class Deletions:
    def __init__(self, config: JobletConfig, database: Database, jobs: Jobs, nodes: Nodes) -> None:
        self._config = config
        self._database = database
        self._jobs = jobs
        self._nodes = nodes

    async def delete(self, wanted: str) -> job_pb2.DeleteJobRes:
        """Raises JobNotFound, InvalidArgument for an ambiguous prefix, JobNotEnded."""
        job = await self._jobs.find(wanted)
        self._told(await self._database.write(queries.remove, job.id))
        _log.info("job deleted", jobId=job.id, nodeId=job.node_id)
        return job_pb2.DeleteJobRes(uuid=job.id)

    async def delete_all(self) -> job_pb2.DeleteAllJobsRes:
        """Every job that has ended; jobs that are submitted meanwhile are left alone."""
        last = await self._database.read(queries.last_sequence)
        skipped = await self._count(ended=False)
        deleted = 0
        while group := await self._database.read(queries.oldest, GROUP, last):
            self._told(await self._database.write(queries.remove_all, [job.job_id for job in group]))
            deleted += len(group)
            await asyncio.sleep(0)
        _log.info("jobs deleted", jobs=deleted, skipped=skipped)
        return job_pb2.DeleteAllJobsRes(deleted=deleted, skipped=skipped)

    async def run(self) -> None:
        """Until cancelled: deletes jobs that are old enough."""
        while True:
            try:
                await self._expire()
            except JobletError as error:
                _log.error("old jobs cannot be deleted yet", error=error.message)
            await asyncio.sleep(RETENTION_SECONDS)

    async def _expire(self) -> None:
        """Oldest first: what ended too long ago, and what is more than may be kept."""
        last = await self._database.read(queries.last_sequence)
        excess = self._excess(await self._count(ended=True))
        deadline_ns = self._deadline_ns()
        deleted = 0
        while group := await self._database.read(queries.oldest, GROUP, last):
            old = [
                job.job_id
                for number, job in enumerate(group)
                if number < excess - deleted or job.ended_ns < deadline_ns
            ]
            self._told(await self._database.write(queries.remove_all, old))
            deleted += len(old)
            if len(old) < len(group):
                break
            await asyncio.sleep(0)
        if deleted:
            _log.info("old jobs deleted", jobs=deleted)

    async def _count(self, *, ended: bool) -> int:
        counts = await self._database.read(job_queries.state_counts)
        return sum(count for state, count in counts.items() if (state in TERMINAL) is ended)

    def _excess(self, ended: int) -> int:
        limit = self._config.max_finished_jobs
        return max(0, ended - limit) if limit else 0

    def _deadline_ns(self) -> int:
        """What ended before it is deleted; 0 for nothing."""
        seconds = self._config.job_retention_seconds
        return time.time_ns() - round(seconds * NS_PER_SECOND) if seconds else 0

    def _told(self, node_ids: Iterable[str]) -> None:
        """Nodes that are connected have something to forget; the others find it when they are again."""
        for node_id in node_ids:
            with suppress(Unavailable):
                self._nodes.link(node_id).deletions.set()
