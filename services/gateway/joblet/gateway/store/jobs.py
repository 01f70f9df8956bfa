"""Queries on jobs: plain functions of a Connection, run by `Database.read` and `Database.write`.

A state changes only along `joblet.common.states`, and with it the job's `listing`; what events of a node do to a job is
in `joblet.gateway.store.events`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from joblet.common.errors import JobNotFound
from joblet.common.ids import MIN_PREFIX_LENGTH, is_job_id, is_prefix
from joblet.common.states import TERMINAL, JobState, Reason, check_transition
from joblet.gateway import views
from joblet.gateway.store.model import Job
from joblet.gateway.store.schema import ACTIVE_STATES, jobs, payloads
from joblet.gateway.store.statement import Statement

MAX_CANDIDATES = 10
SEALED = -1  # the number of the payload that has the secrets

# Written out, not as parameters: SQLite uses a partial index only when it can see that the condition is the index's.
ACTIVE = text("state IN (" + ", ".join(f"'{state.value}'" for state in ACTIVE_STATES) + ")")

NOT_ENDED = text("state IN (" + ", ".join(f"'{state.value}'" for state in JobState if state not in TERMINAL) + ")")

_JOB = select(*(column for column in jobs.columns if column is not jobs.c.listing))
_BY_ID = Statement(_JOB.where(jobs.c.id == bindparam("job_id")))
_BY_REQUEST = Statement(_JOB.where(jobs.c.request_id == bindparam("wanted")))
_BY_PREFIX = Statement(
    _JOB.where(jobs.c.id >= bindparam("low"), jobs.c.id < bindparam("high"))
    .order_by(jobs.c.id)
    .limit(MAX_CANDIDATES + 1)
)
_AFTER = Statement(_JOB.where(jobs.c.sequence > bindparam("after")).order_by(jobs.c.sequence).limit(bindparam("count")))
_ACTIVE_OF = Statement(_JOB.where(jobs.c.node_id == bindparam("node"), ACTIVE).order_by(jobs.c.sequence))
_WANTED_UPLOADS = Statement(select(jobs.c.uploads).where(NOT_ENDED, text("uploads <> '[]'")))
_STATE_COUNTS = Statement(select(jobs.c.state, func.count()).group_by(jobs.c.state))
_STATE = Statement(select(jobs.c.state, jobs.c.listing).where(jobs.c.id == bindparam("job_id")))
_INSERT = Statement(
    insert(jobs).returning(jobs.c.sequence), [column.name for column in jobs.columns if column is not jobs.c.sequence]
)
_INSERT_PAYLOAD = Statement(insert(payloads), [column.name for column in payloads.columns])
_PAYLOADS = Statement(
    select(payloads.c.content)
    .where(payloads.c.job_id == bindparam("job"), payloads.c.number > SEALED)
    .order_by(payloads.c.number)
)
_SEALED = Statement(
    select(payloads.c.content).where(payloads.c.job_id == bindparam("job"), payloads.c.number == SEALED)
)
_DROP_PAYLOADS = Statement(
    delete(payloads).where(
        payloads.c.job_id == bindparam("job"),
        # As long as there may be another attempt, it will need them.
        ~exists().where(jobs.c.id == payloads.c.job_id, jobs.c.retries_left > 0),
    )
)
_ACKNOWLEDGE = Statement(
    update(jobs).where(jobs.c.id == bindparam("job"), ~jobs.c.acknowledged).values(acknowledged=True)
)
_END = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=bindparam("new_state"),
        reason=bindparam("new_reason"),
        message=bindparam("new_message"),
        exit_code=bindparam("new_exit_code"),
        ended_ns=bindparam("new_ended_ns"),
        retries_left=0,
        listing=bindparam("new_listing"),
    )
)


class AmbiguousPrefix(Exception):
    """More than one job's id begins with what was asked for."""

    def __init__(self, candidates: Sequence[str]) -> None:
        super().__init__(", ".join(candidates))
        self.candidates = tuple(candidates)


class RequestTaken(Exception):
    """The request id belongs to a job already."""


def find(connection: Connection, wanted: str) -> Job:
    """The one job whose id is, or begins with, `wanted`. Raises JobNotFound, AmbiguousPrefix."""
    low = wanted.lower()
    if is_job_id(low):
        job = _by_id(connection, low)
        if job is None:
            raise JobNotFound(wanted)
        return job
    if not is_prefix(low):
        raise JobNotFound(wanted, hint=f"an id, or at least {MIN_PREFIX_LENGTH} characters of its beginning")
    found = [Job._make(row) for row in _BY_PREFIX.rows(connection, {"low": low, "high": low + "g"})]
    if not found:
        raise JobNotFound(wanted)
    if len(found) > 1:
        raise AmbiguousPrefix([job.id for job in found])
    return found[0]


def state_of(connection: Connection, job_id: str) -> JobState:
    """By whole id. Raises JobNotFound."""
    row = _STATE.first(connection, {"job_id": job_id})
    if row is None:
        raise JobNotFound(job_id)
    state: JobState = row[0]
    return state


def get(connection: Connection, job_id: str) -> Job:
    """By whole id. Raises JobNotFound."""
    job = _by_id(connection, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _by_id(connection: Connection, job_id: str) -> Job | None:
    row = _BY_ID.first(connection, {"job_id": job_id})
    return None if row is None else Job._make(row)


def by_request(connection: Connection, request_id: str) -> Job | None:
    row = _BY_REQUEST.first(connection, {"wanted": request_id})
    return None if row is None else Job._make(row)


def insert_job(
    connection: Connection, values: Mapping[str, Any], contents: Sequence[bytes], sealed: bytes = b""
) -> Job:
    """Stores a new job, with its secrets if there are any. Raises RequestTaken when its request id is known: the unique
    index decides that in this very transaction, not a question before it."""
    job = Job(sequence=0, **values)
    try:
        ((sequence,),) = _INSERT.rows(connection, {**values, "listing": views.entry(job)})
    except IntegrityError as error:
        raise RequestTaken from error
    for number, content in enumerate(contents):
        _INSERT_PAYLOAD.run(connection, {"job_id": values["id"], "number": number, "content": content})
    if sealed:
        _INSERT_PAYLOAD.run(connection, {"job_id": values["id"], "number": SEALED, "content": sealed})
    return job._replace(sequence=sequence)


def page(connection: Connection, after: int, count: int) -> list[Job]:
    """At most `count` jobs in order of submission, beginning behind sequence number `after`."""
    return [Job._make(row) for row in _AFTER.rows(connection, {"after": after, "count": count})]


def active_of(connection: Connection, node_id: str) -> list[Job]:
    return [Job._make(row) for row in _ACTIVE_OF.rows(connection, {"node": node_id})]


def by_ids(connection: Connection, ids: Iterable[str]) -> dict[str, Job]:
    """Those of the jobs that there are."""
    found = (_by_id(connection, job_id) for job_id in ids)
    return {job.id: job for job in found if job is not None}


def state_counts(connection: Connection) -> dict[JobState, int]:
    return dict(_STATE_COUNTS.rows(connection, {}))


def wanted_digests(connection: Connection) -> set[str]:
    """Of the uploads of all jobs that have not ended."""
    return {upload.digest for (uploads,) in _WANTED_UPLOADS.rows(connection, {}) for upload in uploads if upload.digest}


def contents_of(connection: Connection, job_id: str) -> list[bytes]:
    return [content for (content,) in _PAYLOADS.rows(connection, {"job": job_id})]


def sealed_of(connection: Connection, job_id: str) -> bytes:
    """The job's secrets, encrypted; nothing when it has none."""
    row = _SEALED.first(connection, {"job": job_id})
    return b"" if row is None else row[0]


def listing_of(connection: Connection, job_id: str) -> bytes:
    listing: bytes = _STATE.first(connection, {"job_id": job_id})[1]
    return listing


def acknowledge(connection: Connection, ids: Iterable[str]) -> None:
    """The node has these jobs: their small uploads and secrets need not be kept any longer."""
    for job_id in ids:
        _ACKNOWLEDGE.run(connection, {"job": job_id})
        drop_contents(connection, job_id)


def drop_contents(connection: Connection, job_id: str) -> None:
    _DROP_PAYLOADS.run(connection, {"job": job_id})


def end(
    connection: Connection, job_id: str, state: JobState, reason: Reason, message: str, exit_code: int, now_ns: int
) -> bool:
    """Ends a job by the gateway's own decision. False when it has ended already: nothing is changed then."""
    row = _STATE.first(connection, {"job_id": job_id})
    if row is None:
        raise JobNotFound(job_id)
    old, listing = row
    if old in TERMINAL:
        return False
    check_transition(old, state)
    _END.run(
        connection,
        {
            "job": job_id,
            "new_state": state,
            "new_reason": reason.value,
            "new_message": message,
            "new_exit_code": exit_code,
            "new_ended_ns": now_ns,
            "new_listing": views.restated(
                listing, state, reason.value, message, exit_code, started_ns=0, ended_ns=now_ns
            ),
        },
    )
    drop_contents(connection, job_id)
    return True
