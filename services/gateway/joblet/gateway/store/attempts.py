"""Attempts of jobs that are retried: the ended ones as rows of their own, the present one as the job's row.

On its node each attempt is a job with an id of its own, so that its output and its end are kept apart: that of the
first is the job's id, later ones are in `jobs.execution_id`. Nodes know nothing of jobs beyond these ids; everything
that a node says is led back to its job here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from joblet.common.errors import JobNotFound
from joblet.common.ids import new_job_id
from joblet.common.states import TERMINAL, JobState, Reason, check_transition
from joblet.gateway import retry, views
from joblet.gateway.retry import Policy
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store.model import Attempt, Job
from joblet.gateway.store.schema import attempts, jobs
from joblet.gateway.store.statement import Statement

_OF_JOB = Statement(select(attempts).where(attempts.c.job_id == bindparam("job")).order_by(attempts.c.number))
_BY_EXECUTION = Statement(select(attempts.c.job_id).where(attempts.c.execution_id == bindparam("execution")))
_FORGET = Statement(delete(attempts).where(attempts.c.job_id == bindparam("job")))
_CURRENT = Statement(select(jobs.c.id).where(jobs.c.execution_id == bindparam("execution")))
_INSERT = Statement(insert(attempts), [column.name for column in attempts.columns])
_AGAIN = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=JobState.SCHEDULED,
        node_id="",
        acknowledged=False,
        reason="",
        message="",
        exit_code=0,
        signal=0,
        started_ns=0,
        ended_ns=0,
        output_bytes=0,
        usage=None,
        attestation=None,
        not_isolated=[],
        execution_id=bindparam("new_execution"),
        attempt=bindparam("new_attempt"),
        retries_left=bindparam("new_retries_left"),
        due_ns=bindparam("new_due"),
    )
)
_LISTING = Statement(update(jobs).where(jobs.c.id == bindparam("job")).values(listing=bindparam("new_listing")))
_NO_MORE = Statement(update(jobs).where(jobs.c.id == bindparam("job")).values(retries_left=0))


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended."""

    state: JobState
    reason: str
    message: str
    exit_code: int
    signal: int
    started_ns: int
    ended_ns: int
    output_bytes: int


def past(connection: Connection, job_id: str) -> list[Attempt]:
    """The job's attempts that have been followed by another one, oldest first."""
    return [Attempt(*row) for row in _OF_JOB.rows(connection, {"job": job_id})]


def with_outputs(connection: Connection, job: Job) -> list[Attempt]:
    """Earlier attempts of the job that its node may have outputs of."""
    return [attempt for attempt in past(connection, job.id) if job.outputs and attempt.node_id == job.node_id]


def job_of(connection: Connection, execution_id: str) -> tuple[str, bool] | None:
    """The job whose attempt a node knows by this id, and whether it is the present one. None: nobody's."""
    job = job_queries.by_ids(connection, [execution_id]).get(execution_id)
    if job is not None:
        return job.id, job.execution == execution_id
    row = _CURRENT.first(connection, {"execution": execution_id})
    if row is not None:
        return row[0], True
    row = _BY_EXECUTION.first(connection, {"execution": execution_id})
    return None if row is None else (row[0], False)


def by_executions(connection: Connection, ids: Iterable[str]) -> dict[str, Job]:
    """By the ids that nodes know: the jobs there are. An attempt that another one followed has ended, whatever its node
    says."""
    found: dict[str, Job] = {}
    for execution_id in ids:
        known = job_of(connection, execution_id)
        if known is None:
            continue
        job = job_queries.get(connection, known[0])
        found[execution_id] = job if known[1] else job._replace(state=JobState.FAILED, reason=Reason.EXIT)
    return found


def again(connection: Connection, job: Job, end: End, now_ns: int) -> bool:
    """Keeps the attempt that has ended so and plans the next one. False when that end is the job's: nothing is done."""
    policy = Policy(job.retries_left, job.attempt, job.backoff_seconds, job.no_retry_codes)
    pause_ns = retry.pause_ns(policy, end.state, end.reason, end.exit_code)
    if pause_ns is None:
        return False
    check_transition(job.state, JobState.SCHEDULED)
    _INSERT.run(connection, _row(job, end))
    _AGAIN.run(
        connection,
        {
            "job": job.id, "new_execution": new_job_id(), "new_attempt": job.attempt + 1,
            "new_retries_left": job.retries_left - 1, "new_due": now_ns + pause_ns,
        },
    )  # fmt: skip
    listing = views.entry(job_queries.get(connection, job.id))
    _LISTING.run(connection, {"job": job.id, "new_listing": listing})
    return True


def fail(
    connection: Connection, job_id: str, reason: Reason, message: str, exit_code: int, now_ns: int,
    execution_id: str = "",
) -> bool:  # fmt: skip
    """The gateway's own word that an attempt has failed. True when there will be another one. With `execution_id`, only
    if that is still the present one. Raises JobNotFound."""
    job = job_queries.get(connection, job_id)
    if job.state in TERMINAL or (execution_id and job.execution != execution_id):
        return False
    end = End(JobState.FAILED, reason.value, message, exit_code, 0, job.started_ns, now_ns, job.output_bytes)
    if again(connection, job, end, now_ns):
        return True
    job_queries.end(connection, job_id, JobState.FAILED, reason, message, exit_code, now_ns)
    return False


def forget(connection: Connection, job_id: str) -> dict[str, str]:
    """Drops the attempts that others followed; their nodes by the ids that those know them by."""
    known = {attempt.execution_id: attempt.node_id for attempt in past(connection, job_id)}
    _FORGET.run(connection, {"job": job_id})
    return known


def no_more(connection: Connection, job_id: str) -> None:
    """Whatever becomes of the present attempt, none follows."""
    _NO_MORE.run(connection, {"job": job_id})


def as_attempt(connection: Connection, job: Job, number: int) -> Job:
    """The job as it is or was in one of its attempts. Raises JobNotFound for one that there is not."""
    if number == job.attempt:
        return job
    for attempt in past(connection, job.id):
        if attempt.number == number:
            return _as_it_was(job, attempt)
    raise JobNotFound(f"{job.id}, attempt {number}", hint=f"it has {job.attempt}")


def all_of(connection: Connection, job: Job) -> list[Job]:
    """The job as it was in each of its attempts, and as it is now."""
    return [*(_as_it_was(job, attempt) for attempt in past(connection, job.id)), job]


def _as_it_was(job: Job, attempt: Attempt) -> Job:
    return job._replace(
        node_id=attempt.node_id, execution_id=attempt.execution_id, attempt=attempt.number, state=attempt.state,
        reason=attempt.reason, message=attempt.message, exit_code=attempt.exit_code, signal=attempt.signal,
        started_ns=attempt.started_ns, ended_ns=attempt.ended_ns, output_bytes=attempt.output_bytes,
    )  # fmt: skip


def _row(job: Job, end: End) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "number": job.attempt,
        "execution_id": job.execution,
        "node_id": job.node_id,
        "state": end.state,
        "reason": end.reason,
        "message": end.message,
        "exit_code": end.exit_code,
        "signal": end.signal,
        "started_ns": end.started_ns,
        "ended_ns": end.ended_ns,
        "output_bytes": end.output_bytes,
    }
