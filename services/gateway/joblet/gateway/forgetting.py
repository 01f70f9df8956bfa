"""Removing what a node has of deleted jobs: their output, and the executor's memory of them.

Runs while the node is connected. What could not be done is tried again, also after a restart of either side: the note
in the store goes last. A job that was failed because its node was lost may still run there: it is stopped first.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from joblet.api.internal import executor_pb2, logstore_pb2
from joblet.common import log
from joblet.common.errors import FailedPrecondition, JobletError, NotFound
from joblet.gateway.link import Link
from joblet.gateway.store import deletion as queries
from joblet.gateway.store.database import Database

GROUP = 100
GROUP_SECONDS = 0.1  # jobs that are deleted meanwhile are taken together
RETRY_SECONDS = 5.0  # a service of the node that is being restarted, or still clears up after a job
CALL_SECONDS, STOP_SECONDS = 10.0, 30.0

_log = log.get_logger(__name__)


async def carry_out(database: Database, link: Link) -> None:
    """Until cancelled. Raises what the store raises."""
    while True:
        link.deletions.clear()
        left = await _round(database, link)
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS if left else None):
                await link.deletions.wait()
        await asyncio.sleep(GROUP_SECONDS)


async def _round(database: Database, link: Link) -> bool:
    """True when something is left to try again."""
    done = 0
    while group := await database.read(queries.noted, link.node.id, GROUP):
        forgotten = await _forgotten(link, group)
        await database.write(queries.done, forgotten)
        done += len(forgotten)
        if len(forgotten) < len(group):
            break
    if done:
        await database.read(queries.clear_traces)
        _log.info("deleted jobs removed from their node", jobs=done, nodeId=link.node.id)
    return bool(group)


async def _forgotten(link: Link, job_ids: Sequence[str]) -> list[str]:
    """Those of the jobs of which the node has nothing any more."""
    done: list[str] = []
    try:
        request = executor_pb2.ForgetJobRequest(job_ids=job_ids, erase=True)
        answer = await link.call(link.executor.ForgetJob, request, CALL_SECONDS)
        for job_id in answer.kept:
            await _stop(link, job_id)
        for job_id in job_ids:
            if job_id not in answer.kept:
                with suppress(NotFound):
                    await link.call(
                        link.logstore.DeleteLogs, logstore_pb2.DeleteLogsRequest(job_id=job_id), CALL_SECONDS
                    )
                done.append(job_id)
    except JobletError as error:
        _log.warn("deleted jobs cannot be removed yet", jobs=len(job_ids), nodeId=link.node.id, error=error.message)
    return done


async def _stop(link: Link, job_id: str) -> None:
    """For a job that runs although the gateway thought it had ended."""
    with suppress(NotFound, FailedPrecondition):  # it has ended, and is being cleared up after
        await link.call(link.executor.StopJob, executor_pb2.StopJobRequest(job_id=job_id), STOP_SECONDS)
        _log.warn("deleted job still ran on its node", jobId=job_id, nodeId=link.node.id)
