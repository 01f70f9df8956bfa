"""Deleting jobs: what the store forgets at once, and which nodes still have something of them.

One transaction takes the job's row and everything that belongs to it out of the store and notes, in `deletions`, that
its node has to forget it too. The note goes when the node has: a node that is away is told when it comes back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text

from joblet.common.errors import JobNotEnded, JobNotFound
from joblet.common.states import TERMINAL
from joblet.gateway.store import attempts
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.schema import deletions, jobs
from joblet.gateway.store.statement import Statement

# Written out for the same reason as `jobs.ACTIVE`.
ENDED = text("state IN (" + ", ".join(sorted(f"'{state.value}'" for state in TERMINAL)) + ")")

_JOB = Statement(select(jobs.c.state, jobs.c.node_id, jobs.c.execution_id).where(jobs.c.id == bindparam("job")))
_REMOVE = Statement(delete(jobs).where(jobs.c.id == bindparam("job")))
_NOTE = Statement(insert(deletions), [column.name for column in deletions.columns])
_NOTED = Statement(
    select(deletions.c.job_id)
    .where(deletions.c.node_id == bindparam("node"))
    .order_by(deletions.c.job_id)
    .limit(bindparam("count"))
)
_DONE = Statement(delete(deletions).where(deletions.c.job_id == bindparam("job")))
_OLDEST = Statement(
    select(jobs.c.sequence, jobs.c.id, jobs.c.ended_ns)
    .where(jobs.c.sequence <= bindparam("last"), text("ended_ns > 0"), ENDED)
    .order_by(jobs.c.ended_ns, jobs.c.sequence)
    .limit(bindparam("count"))
)
_LAST = Statement(select(func.max(jobs.c.sequence)))


@dataclass(frozen=True, slots=True)
class Finished:
    sequence: int
    job_id: str
    ended_ns: int


def remove(connection: Connection, job_id: str) -> set[str]:
    """Forgets a job that has ended; the nodes that have to, too. Raises JobNotFound, JobNotEnded."""
    row = _JOB.first(connection, {"job": job_id})
    if row is None:
        raise JobNotFound(job_id)
    state, node_id, execution_id = row
    if state not in TERMINAL:
        raise JobNotEnded(job_id, state)
    job_queries.drop_contents(connection, job_id)
    _REMOVE.run(connection, {"job": job_id})
    there = {execution_id or job_id: node_id, **attempts.forget(connection, job_id)}
    for name, node in there.items():
        if node:
            _NOTE.run(connection, {"job_id": name, "node_id": node})
    return set(there.values()) - {""}


def remove_all(connection: Connection, job_ids: Iterable[str]) -> set[str]:
    """As `remove`, for jobs that are known to have ended; the nodes that have to forget some of them."""
    return set[str]().union(*(remove(connection, job_id) for job_id in job_ids))


def noted(connection: Connection, node_id: str, count: int) -> list[str]:
    """Jobs that this node still has to forget."""
    return [job_id for (job_id,) in _NOTED.rows(connection, {"node": node_id, "count": count})]


def done(connection: Connection, job_ids: Iterable[str]) -> None:
    for job_id in job_ids:
        _DONE.run(connection, {"job": job_id})


def oldest(connection: Connection, count: int, last: int) -> list[Finished]:
    """Of the jobs up to sequence number `last`, the `count` that ended first, in that order."""
    return [Finished(*row) for row in _OLDEST.rows(connection, {"count": count, "last": last})]


def last_sequence(connection: Connection) -> int:
    return int(_LAST.rows(connection, {})[0][0] or 0)


def clear_traces(connection: Connection) -> Any:
    """Carries the write-ahead log over into the database and empties it: deleted rows stand in neither any more."""
    return connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").first()
