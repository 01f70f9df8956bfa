"""What the events of a node do to the store: each exactly once, in order.

`apply` changes jobs and `nodes.last_sequence` in one transaction. An event that was applied before is skipped by its
number; a gap means that something was lost and raises, the caller then starts over from the store's number. An event
about a job that the gateway has ended itself changes nothing; if the job is running, the caller is told (`orphans`).
The one way out of a terminal state: a job that was failed because its node seemed lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, bindparam, exists, literal, select, update

from joblet.common.errors import Internal, JobNotFound
from joblet.common.states import JobState, Reason, check_transition
from joblet.gateway import views
from joblet.gateway.store import attempts
from joblet.gateway.store import jobs as job_queries
from joblet.gateway.store import nodes as node_queries
from joblet.gateway.store import queue as queue_queries
from joblet.gateway.store.schema import jobs, nodes, payloads
from joblet.gateway.store.statement import Statement


@dataclass(frozen=True, slots=True)
class Started:
    """The command is executing."""

    not_isolated: tuple[str, ...]
    attestation: bytes | None  # as in store.model.Job


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended. `started_ns` is 0 when the command never ran."""

    state: JobState
    exit_code: int
    signal: int
    reason: str
    message: str
    started_ns: int
    ended_ns: int
    usage: bytes | None
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    sequence: int
    job_id: str
    time_ns: int
    what: Started | Ended


@dataclass(slots=True)
class Applied:
    """What a batch of events did. `started` has the time from submission to start in nanoseconds."""

    last_sequence: int
    changed: list[str] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)  # for good
    retried: list[str] = field(default_factory=list)  # attempts of theirs ended, others will follow
    forget: list[str] = field(default_factory=list)  # stored: the node may forget these, named as it names them
    orphans: list[str] = field(default_factory=list)  # running there although over for the gateway, named likewise
    unknown: list[str] = field(default_factory=list)
    crowd: bool = False  # jobs wait for room


_RUNNING = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=bindparam("new_state"),
        acknowledged=True,
        started_ns=bindparam("new_started_ns"),
        not_isolated=bindparam("new_not_isolated"),
        attestation=bindparam("new_attestation"),
        reason="",
        message="",
        exit_code=0,
        ended_ns=0,
        listing=bindparam("new_listing"),
    )
)
_END = (
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=bindparam("new_state"),
        acknowledged=True,
        reason=bindparam("new_reason"),
        message=bindparam("new_message"),
        exit_code=bindparam("new_exit_code"),
        signal=bindparam("new_signal"),
        started_ns=bindparam("new_started_ns"),
        ended_ns=bindparam("new_ended_ns"),
        output_bytes=bindparam("new_output_bytes"),
        usage=bindparam("new_usage"),
        retries_left=0,
        listing=bindparam("new_listing"),
    )
)
_ENDED = Statement(_END)
_RAN = Statement(_END.values(not_isolated=bindparam("new_not_isolated"), attestation=bindparam("new_attestation")))
_KNOWN = Statement(
    select(
        jobs.c.id, jobs.c.state, jobs.c.reason, jobs.c.submitted_ns, jobs.c.started_ns, jobs.c.acknowledged,
        jobs.c.listing, jobs.c.retries_left, jobs.c.attempt, exists().where(payloads.c.job_id == jobs.c.id),
    ).where(jobs.c.id == bindparam("job"))
)  # fmt: skip
_BEFORE = Statement(
    select(nodes.c.last_sequence, select(literal(1)).select_from(jobs).where(queue_queries.PENDING).exists())
    .where(nodes.c.id == bindparam("node"))
    .with_for_update()
)
_REVIVE = Statement(
    update(jobs)
    .where(jobs.c.id == bindparam("job"))
    .values(
        state=bindparam("new_state"),
        acknowledged=True,
        reason="",
        message="",
        exit_code=0,
        ended_ns=0,
        listing=bindparam("new_listing"),
    )
)


@dataclass(slots=True)
class _Known:
    """What is known of a job in the middle of a batch."""

    id: str
    state: JobState
    reason: str
    submitted_ns: int
    started_ns: int
    acknowledged: bool
    listing: bytes
    retries_left: int
    attempt: int
    has_contents: bool  # that were stored for its node, secrets among them
    started: Started | None = None  # told with the end that follows it, and stored with that

    @property
    def node_lost(self) -> bool:
        return self.state is JobState.FAILED and self.reason == Reason.NODE_LOST


def apply(connection: Connection, node_id: str, events: Sequence[Event]) -> Applied:
    """Raises Internal on a gap in the numbers, except before the very first event of a node: an executor may have
    forgotten what an earlier gateway acknowledged."""
    before = _BEFORE.first(connection, {"node": node_id})
    if before is None:
        raise Internal(f"node {node_id} is not in the store")
    last_sequence, crowd = before
    applied = Applied(last_sequence, crowd=crowd)
    fresh = [event for event in events if event.sequence > last_sequence]
    known = _load(connection, fresh)
    for event in fresh:
        if event.sequence != applied.last_sequence + 1 and applied.last_sequence:
            raise Internal(f"event {event.sequence} of node {node_id} follows event {applied.last_sequence}")
        applied.last_sequence = event.sequence
    _apply_all(connection, fresh, known, applied)
    if applied.last_sequence != last_sequence:
        node_queries.set_sequence(connection, node_id, applied.last_sequence)
    return applied


def revive(connection: Connection, job_id: str, state: JobState) -> None:
    """Puts a job right that was failed because its node seemed lost and that the node still has."""
    known = _KNOWN.first(connection, {"job": job_id})
    if known is None:
        raise JobNotFound(job_id)
    listing = views.restated(_Known(*known).listing, state, "", "", 0, started_ns=0, ended_ns=0)
    _REVIVE.run(connection, {"job": job_id, "new_state": state, "new_listing": listing})


def _load(connection: Connection, events: Iterable[Event]) -> dict[str, _Known]:
    known = {}
    for job_id in {event.job_id for event in events}:
        row = _KNOWN.first(connection, {"job": job_id})
        job = None if row is None else _Known(*row)
        if job is not None and job.attempt == 1:
            known[job_id] = job
        elif (attempt := attempts.job_of(connection, job_id)) is not None:
            known[job_id] = _of_later_attempt(connection, *attempt)
    return known


def _of_later_attempt(connection: Connection, job_id: str, present: bool) -> _Known:
    """Of a job that has been retried. An attempt that another one followed is over."""
    known = _Known(*_KNOWN.first(connection, {"job": job_id}))
    if not present:
        known.state, known.reason = JobState.FAILED, Reason.EXIT
    return known


def _apply_all(connection: Connection, events: Sequence[Event], known: Mapping[str, _Known], applied: Applied) -> None:
    """A job's start and the end right behind it are stored as one change: a short job's come together."""
    for event, following in zip_longest(events, events[1:]):
        job = known.get(event.job_id)
        if job is None:
            applied.unknown.append(event.job_id)
        elif isinstance(event.what, Ended):
            _apply_ended(connection, event, event.what, job, applied)
        elif _apply_started(event, event.what, job, applied) and not _is_end_of(event, following):
            _store_started(connection, job)


def _is_end_of(event: Event, following: Event | None) -> bool:
    return following is not None and following.job_id == event.job_id and isinstance(following.what, Ended)


def _apply_started(event: Event, started: Started, job: _Known, applied: Applied) -> bool:
    """What it means. True when it is to be stored."""
    if job.state in (JobState.COMPLETED, JobState.STOPPED, JobState.CANCELED, JobState.FAILED) and not job.node_lost:
        applied.orphans.append(event.job_id)
        return False
    if job.state is not JobState.RUNNING and not job.node_lost:
        check_transition(job.state, JobState.RUNNING)
    job.state, job.reason, job.started_ns, job.started = JobState.RUNNING, "", event.time_ns, started
    applied.changed.append(job.id)
    applied.started.append(event.time_ns - job.submitted_ns)
    return True


def _store_started(connection: Connection, job: _Known) -> None:
    assert job.started is not None
    job.listing = views.restated(job.listing, JobState.RUNNING, "", "", 0, started_ns=job.started_ns, ended_ns=0)
    _RUNNING.run(
        connection,
        {
            "job": job.id,
            "new_state": JobState.RUNNING,
            "new_started_ns": job.started_ns,
            **_how(job.started),
            "new_listing": job.listing,
        },
    )
    _acknowledged(connection, job)
    job.started = None


def _how(started: Started) -> dict[str, Any]:
    return {"new_not_isolated": list(started.not_isolated), "new_attestation": started.attestation}


def _apply_ended(connection: Connection, event: Event, ended: Ended, job: _Known, applied: Applied) -> None:
    if job.state in (JobState.COMPLETED, JobState.STOPPED, JobState.CANCELED, JobState.FAILED) and not job.node_lost:
        applied.forget.append(event.job_id)
        return
    started_ns = ended.started_ns or job.started_ns
    if job.retries_left and _retried(connection, job, ended, started_ns):
        job.state, job.reason = JobState.FAILED, ended.reason  # for whatever else may come of this attempt
        applied.retried.append(job.id)
        applied.forget.append(event.job_id)
        return
    if not job.node_lost:
        check_transition(job.state, ended.state)
    listing = views.restated(
        job.listing, ended.state, ended.reason, ended.message, ended.exit_code,
        started_ns=started_ns, ended_ns=ended.ended_ns,
    )  # fmt: skip
    statement, how = (_ENDED, {}) if job.started is None else (_RAN, _how(job.started))
    statement.run(
        connection,
        {
            "job": job.id,
            **how,
            "new_state": ended.state,
            "new_reason": ended.reason,
            "new_message": ended.message,
            "new_exit_code": ended.exit_code,
            "new_signal": ended.signal,
            "new_started_ns": started_ns,
            "new_ended_ns": ended.ended_ns,
            "new_output_bytes": ended.output_bytes,
            "new_usage": ended.usage,
            "new_listing": listing,
        },
    )
    _acknowledged(connection, job)
    job.state, job.reason, job.listing = ended.state, ended.reason, listing
    applied.changed.append(job.id)
    applied.ended.append(job.id)
    applied.forget.append(event.job_id)


def _retried(connection: Connection, job: _Known, ended: Ended, started_ns: int) -> bool:
    end = attempts.End(
        ended.state, ended.reason, ended.message, ended.exit_code, ended.signal, started_ns, ended.ended_ns,
        ended.output_bytes,
    )  # fmt: skip
    return attempts.again(connection, job_queries.get(connection, job.id), end, ended.ended_ns)


def _acknowledged(connection: Connection, job: _Known) -> None:
    """An event says as much as an answer to StartJob; the statement before has stored that."""
    if job.has_contents and (not job.acknowledged or job.retries_left):
        job_queries.drop_contents(connection, job.id)
        job.acknowledged = True


def settle(
    connection: Connection, node_id: str, sequence: int | None, known: Iterable[str], lost: Sequence[tuple[str, str]],
    revived: Sequence[tuple[str, JobState]], adopted: Sequence[Event], now_ns: int,
) -> None:  # fmt: skip
    """Carries out what was decided when a node connected (`joblet.gateway.reconcile`), in one transaction.

    `known` are acknowledged, `lost` (id, message) failed, `revived` put right; `sequence` replaces the number of the
    last event applied when the node has begun to count anew; `adopted` stands in for events the node has forgotten.
    """
    if sequence is not None:
        node_queries.set_sequence(connection, node_id, sequence)
    job_queries.acknowledge(connection, known)
    for job_id, message in lost:
        attempts.fail(connection, job_id, Reason.NODE_LOST, message, node_queries.EXIT_CODE_UNKNOWN, now_ns)
    for job_id, state in revived:
        revive(connection, job_id, state)
    _apply_all(connection, adopted, _load(connection, adopted), Applied(0))
