"""What this node knows of its jobs and the numbered events it owes the gateway: one SQLite file in WAL mode.

Everything committed survives kill -9 of the executor at any instant (a torn write-ahead log is cut at its last whole
commit, sqlite.org/wal.html); with synchronous=NORMAL a power failure may cost the last commits, never the file. A
change of a job and the event about it are one transaction, so neither exists without the other. Event numbers are 1,
2, 3 ... without gaps; the last number outlives the events themselves. Secrets and uploads are never stored.

A job is written when its command waits to be told to go, or when it ends without having come so far. One that was only
accepted when its executor was killed has never run and is ordered again (`adopt`): nothing of it would be asked for.
What an event says is stored once, with the job: neither is forgotten before the other.

Jobs that have not ended and the last events are also kept in memory, and read there.

Used from the event loop's thread only; a call takes some tens of microseconds.
"""

import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from joblet.common.errors import FailedPrecondition, Internal, JobNotFound, OutOfRange, StartError
from joblet.common.states import TERMINAL, JobState, Reason, check_transition
from joblet.executor.job import Event, InitProcess, Outcome, Record, Started, Usage

VERSION: Final = 2
_BUSY_SECONDS: Final = 5.0
_REMEMBERED: Final = 1024
_LOG_PAGES: Final = 4000  # every job changes the same few pages: the later they are carried over, the fewer

_JOBS: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    command TEXT NOT NULL,          -- for messages; arguments and environment are not kept
    uid_base INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    timeout_seconds INTEGER NOT NULL,
    not_isolated TEXT NOT NULL,     -- JSON list
    created_ns INTEGER NOT NULL,
    init TEXT,                      -- JSON of InitProcess, when the command is parked
    start INTEGER,                  -- likewise; number in starts
    started_ns INTEGER NOT NULL DEFAULT 0,
    outcome TEXT                    -- JSON of Outcome, the body of the event of the end
) STRICT, WITHOUT ROWID;
CREATE TABLE starts (               -- the most of a job; apart, since it does not change with it
    number INTEGER PRIMARY KEY,
    body TEXT NOT NULL              -- JSON of Started, the body of the event to come
) STRICT;
"""
_SCHEMA: Final = f"""{_JOBS}
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    kind TEXT NOT NULL              -- started, ended
) STRICT;
CREATE TABLE counter (last_sequence INTEGER NOT NULL) STRICT;  -- as of the last time that events were deleted
INSERT INTO counter VALUES (0);
"""
# Version 1 had the body of STARTED in jobs.parked, and each event a copy of its body.
_FROM_VERSION_1: Final = f"""
ALTER TABLE events DROP COLUMN body;
ALTER TABLE jobs RENAME TO old_jobs;
{_JOBS}
INSERT INTO jobs
    SELECT job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns, init,
        iif(parked IS NULL, NULL, row_number() OVER (ORDER BY job_id)), started_ns, outcome
    FROM old_jobs;
INSERT INTO starts SELECT start, old_jobs.parked FROM jobs JOIN old_jobs USING (job_id) WHERE start IS NOT NULL;
DROP TABLE old_jobs;
"""


class Journal:
    """The open database. What changes something has committed when it returns; only `add` writes nothing."""

    def __init__(self, path: Path) -> None:
        try:
            # The default timeout is for readers of other processes (an operator's sqlite3); we are the only writer.
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._prepare(path)
        except sqlite3.Error as error:
            raise StartError(f"cannot open the journal {path}: {error}") from error
        self.last_sequence = self._value(_LAST_SEQUENCE)
        self._latest: deque[Event] = deque(maxlen=_REMEMBERED)  # without gaps, up to the last one
        self._unfinished = {record.job_id: record for record in self._stored() if record.state not in TERMINAL}
        self._failing = False  # the last time that something was to be written

    def _prepare(self, path: Path) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten, not left in free pages
        self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        version = self._value("PRAGMA user_version")
        if version not in (0, 1, VERSION):
            raise StartError(f"the journal {path} has version {version}; this executor writes version {VERSION}")
        if version != VERSION:
            change = _FROM_VERSION_1 if version else _SCHEMA
            self._db.executescript(f"BEGIN;{change}PRAGMA user_version={VERSION};COMMIT;")

    def close(self) -> None:
        self._db.close()

    def add(self, record: Record) -> None:
        """A new job, not launched yet. sqlite3.Error when the disk is known to have no room for it."""
        if self._failing:
            with self._writing():
                self._keep_count()
        self._unfinished[record.job_id] = record

    def remove(self, job_id: str) -> None:
        """Forgets a job that has never run, of which there are no events."""
        with self._writing():
            self._delete([job_id])
        self._unfinished.pop(job_id, None)

    def parked(self, job_id: str, init: InitProcess, body: Started) -> Record:
        """The command is attested and is about to be told to go. From here on it may have run. The job as it is now."""
        record = replace(self._known(job_id), init=init, parked=body)
        with self._writing():
            start = self._db.execute("INSERT INTO starts (body) VALUES (?)", (_dump(body),)).lastrowid
            self._db.execute(_INSERT, _row(record, start))
        self._unfinished[job_id] = record
        return record

    def started(self, job_id: str, time_ns: int) -> Event:
        """INITIALIZING -> RUNNING with its event, whose body was stored by `parked`."""
        record, body = self._parked(job_id)
        event = self._write(
            [Event(self.last_sequence + 1, job_id, time_ns, body)],
            "UPDATE jobs SET state = ?, started_ns = ? WHERE job_id = ?",
            (JobState.RUNNING, body.started_ns, job_id),
        )
        self._unfinished[job_id] = replace(record, state=JobState.RUNNING, started_ns=body.started_ns)
        return event

    def ended(self, job_id: str, outcome: Outcome, time_ns: int) -> Event:
        """To a terminal state with its event."""
        record = self._known(job_id)
        check_transition(record.state, outcome.state)
        return self._end(record, outcome, [Event(self.last_sequence + 1, job_id, time_ns, outcome)])

    def ran(self, job_id: str, started_time_ns: int, outcome: Outcome, time_ns: int) -> Event:
        """`started` and `ended` at once, for a job that ended before the first was told; the second event."""
        record, body = self._parked(job_id)
        check_transition(JobState.RUNNING, outcome.state)
        first = self.last_sequence + 1
        events = [Event(first, job_id, started_time_ns, body), Event(first + 1, job_id, time_ns, outcome)]
        return self._end(record, outcome, events)

    def job(self, job_id: str) -> Record | None:
        if (unfinished := self._unfinished.get(job_id)) is not None:
            return unfinished
        row = self._db.execute(f"{_SELECT} WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else _record(row)

    def jobs(self) -> list[Record]:
        """All jobs, oldest first."""
        found = {record.job_id: record for record in self._stored()} | self._unfinished
        return sorted(found.values(), key=lambda record: (record.created_ns, record.job_id))

    def forget(self, job_id: str) -> None:
        """Removes an ended job; its end is known elsewhere, and so are all events before. FailedPrecondition if it
        runs."""
        state = self._known(job_id).state
        if state not in TERMINAL:
            raise FailedPrecondition(f"job has not ended: {job_id} (current status: {state})")
        self.forget_ended([job_id])

    def forget_ended(self, job_ids: Iterable[str]) -> list[str]:
        """As `forget`, for those of the jobs that have ended; the others that there are."""
        wanted = list(job_ids)
        over = [job_id for job_id in wanted if job_id not in self._unfinished]
        if over:
            last = self._value(f"SELECT coalesce(max(sequence), 0) FROM events WHERE kind = 'ended' AND {_ANY}", over)
            with self._writing():
                self._delete(over)
                self._drop_events(last)
        return [job_id for job_id in wanted if job_id in self._unfinished]

    def erase(self) -> None:
        """Leaves nothing on disk of what was forgotten: the write-ahead log still has it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def events(self, after: int, limit: int) -> list[Event]:
        """At most `limit` events with numbers above `after`, in order.

        OutOfRange when `after` was never given out, FailedPrecondition when events above it are forgotten already.
        """
        self._check_given_out(after)
        if self._latest and self._latest[0].sequence <= after + 1:
            begin = after + 1 - self._latest[0].sequence
            return list(islice(self._latest, begin, begin + limit))
        events = [_read_event(row) for row in self._db.execute(_SELECT_EVENTS, (after, limit))]
        first = events[0].sequence if events else self.last_sequence + 1
        if first != after + 1:
            raise FailedPrecondition(
                f"events {after + 1} to {first - 1} were acknowledged and are forgotten",
                hint="read ListJobs and go on after its last_sequence",
            )
        return events

    def acknowledge(self, sequence: int) -> None:
        """Drops events up to `sequence`. OutOfRange when it was never given out."""
        self._check_given_out(sequence)
        with self._writing():
            self._drop_events(sequence)

    def _check_given_out(self, sequence: int) -> None:
        if sequence > self.last_sequence:
            raise OutOfRange(f"event {sequence} does not exist; the last one is {self.last_sequence}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction."""
        self._failing = True
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield
        self._failing = False

    def _delete(self, job_ids: Sequence[str]) -> None:
        """Inside a transaction."""
        which = (json.dumps(job_ids),)
        self._db.execute(f"DELETE FROM starts WHERE number IN (SELECT start FROM jobs WHERE {_ANY})", which)
        self._db.execute(f"DELETE FROM jobs WHERE {_ANY}", which)

    def _drop_events(self, sequence: int) -> None:
        """Inside a transaction."""
        self._db.execute("DELETE FROM events WHERE sequence <= ?", (sequence,))
        self._keep_count()
        while self._latest and self._latest[0].sequence <= sequence:
            self._latest.popleft()

    def _keep_count(self) -> None:
        """Inside a transaction."""
        self._db.execute("UPDATE counter SET last_sequence = ?", (self.last_sequence,))

    def _known(self, job_id: str) -> Record:
        record = self.job(job_id)
        if record is None:
            raise JobNotFound(job_id)
        return record

    def _parked(self, job_id: str) -> tuple[Record, Started]:
        """A job that may become RUNNING, and what `parked` stored of it."""
        record = self._known(job_id)
        check_transition(record.state, JobState.RUNNING)
        if record.parked is None:
            raise Internal(f"job {job_id} cannot have started: it never parked")
        return record, record.parked

    def _end(self, record: Record, outcome: Outcome, events: Sequence[Event]) -> Event:
        if record.init is None:  # not written yet
            ended = replace(record, state=outcome.state, started_ns=outcome.started_ns, outcome=outcome)
            event = self._write(events, _INSERT, _row(ended, None))
        else:
            event = self._write(
                events,
                "UPDATE jobs SET state = ?, started_ns = ?, outcome = ? WHERE job_id = ?",
                (outcome.state, outcome.started_ns, _dump(outcome), record.job_id),
            )
        del self._unfinished[record.job_id]
        return event

    def _write(self, events: Sequence[Event], change: str, values: Sequence[object]) -> Event:
        """One transaction; the last of the events in it."""
        with self._writing():
            self._db.execute(change, values)
            for event in events:
                kind = "started" if isinstance(event.body, Started) else "ended"
                self._db.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?)", (event.sequence, event.job_id, event.time_ns, kind)
                )
        self._latest.extend(events)
        self.last_sequence = events[-1].sequence
        return events[-1]

    def _stored(self) -> Iterator[Record]:
        return map(_record, self._db.execute(_SELECT))

    def _value(self, query: str, job_ids: Sequence[str] | None = None) -> int:
        return int(self._db.execute(query, () if job_ids is None else (json.dumps(job_ids),)).fetchone()[0])


_LAST_SEQUENCE: Final = (
    "SELECT max((SELECT last_sequence FROM counter), (SELECT coalesce(max(sequence), 0) FROM events))"
)
_INSERT: Final = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT: Final = (
    "SELECT job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns, init, body,"
    " started_ns, outcome FROM jobs LEFT JOIN starts ON number = start"
)
_SELECT_EVENTS: Final = (
    "SELECT sequence, job_id, time_ns, kind, iif(kind = 'started', body, outcome)"
    " FROM events JOIN jobs USING (job_id) LEFT JOIN starts ON number = start"
    " WHERE sequence > ? ORDER BY sequence LIMIT ?"
)
_ANY: Final = "job_id IN (SELECT value FROM json_each(?))"


def _dump(value: InitProcess | Started | Outcome) -> str:
    return _ENCODER.encode(value)


def _fields(value: Any) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, which costs more than the transaction.
    return {name: getattr(value, name) for name in _NAMES[type(value)]}


_NAMES: Final = {kind: [field.name for field in fields(kind)] for kind in (InitProcess, Started, Outcome, Usage)}


_ENCODER: Final = json.JSONEncoder(default=_fields, separators=(",", ":"))


def _row(record: Record, start: int | None) -> tuple[object, ...]:
    return (
        record.job_id, record.state, record.command, record.uid_base, record.memory_bytes, record.timeout_seconds,
        json.dumps(record.not_isolated), record.created_ns,
        None if record.init is None else _dump(record.init),
        start, record.started_ns,
        None if record.outcome is None else _dump(record.outcome),
    )  # fmt: skip


def _record(row: Sequence[Any]) -> Record:
    (job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns, init, parked,
    started_ns,
     outcome) = row  # fmt: skip
    return Record(
        job_id, JobState(state), command, uid_base, memory_bytes, timeout_seconds, tuple(json.loads(not_isolated)),
        created_ns,
        None if init is None else InitProcess(**json.loads(init)),
        None if parked is None else _started(json.loads(parked)),
        started_ns,
        None if outcome is None else _outcome(json.loads(outcome)),
    )  # fmt: skip


def _read_event(row: Sequence[Any]) -> Event:
    sequence, job_id, time_ns, kind, text = row
    body = json.loads(text)
    return Event(sequence, job_id, time_ns, _outcome(body) if kind == "ended" else _started(body))


def _started(body: Mapping[str, Any]) -> Started:
    return Started(**{**body, "not_isolated": tuple(body["not_isolated"])})


def _outcome(body: Mapping[str, Any]) -> Outcome:
    return Outcome(
        **{
            **body,
            "state": JobState(body["state"]),
            "reason": Reason(body["reason"]),
            "usage": Usage(**body["usage"]),
        }
    )
