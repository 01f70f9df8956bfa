"""What this node knows of its jobs and the numbered events it owes the gateway: one SQLite file in WAL mode.

Everything committed survives kill -9 of the executor at any instant (a torn write-ahead log is cut at its last whole
commit, sqlite.org/wal.html); with synchronous=NORMAL a power failure may cost the last commits, never the file. A
change of a job and the event about it are one transaction, so neither exists without the other. Event numbers are 1,
2, 3 ... without gaps; the last number outlives the events themselves. Secrets and uploads are never stored.

The last events are also kept in memory, as written: who follows reads them there.

Used from the event loop's thread only; a call takes some tens of microseconds.
"""

import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final

from joblet.common.errors import FailedPrecondition, Internal, JobNotFound, OutOfRange, StartError
from joblet.common.states import TERMINAL, JobState, Reason, check_transition
from joblet.executor.job import Event, InitProcess, Outcome, Record, Started, Usage

VERSION: Final = 1
_BUSY_SECONDS: Final = 5.0
_REMEMBERED: Final = 1024
_LOG_PAGES: Final = 4000  # every job changes the same few pages: the later they are carried over, the fewer

_SCHEMA: Final = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    command TEXT NOT NULL,          -- for messages; arguments and environment are not kept
    uid_base INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    timeout_seconds INTEGER NOT NULL,
    not_isolated TEXT NOT NULL,     -- JSON list
    created_ns INTEGER NOT NULL,
    init TEXT,                      -- JSON of InitProcess
    parked TEXT,                    -- JSON of Started, the body of the event to come
    started_ns INTEGER NOT NULL DEFAULT 0,
    outcome TEXT                    -- JSON of Outcome
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,             -- started, ended
    body TEXT NOT NULL              -- JSON of Started or Outcome
) STRICT;
CREATE TABLE counter (last_sequence INTEGER NOT NULL) STRICT;  -- as of the last time that events were deleted
INSERT INTO counter VALUES (0);
"""


class Journal:
    """The open database. Every method that changes something has committed when it returns."""

    def __init__(self, path: Path) -> None:
        try:
            # The default timeout is for readers of other processes (an operator's sqlite3); we are the only writer.
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._prepare(path)
        except sqlite3.Error as error:
            raise StartError(f"cannot open the journal {path}: {error}") from error
        self.last_sequence = self._value(_LAST_SEQUENCE)
        self._latest: deque[Event] = deque(maxlen=_REMEMBERED)  # without gaps, up to the last one

    def _prepare(self, path: Path) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten, not left in free pages
        self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        version = self._value("PRAGMA user_version")
        if version == 0:
            self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
        elif version != VERSION:
            raise StartError(f"the journal {path} has version {version}; this executor writes version {VERSION}")

    def close(self) -> None:
        self._db.close()

    def add(self, record: Record) -> None:
        """A new job, not launched yet."""
        self._db.execute(
            "INSERT INTO jobs"
            " (job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (record.job_id, record.state, record.command, record.uid_base, record.memory_bytes, record.timeout_seconds,
             json.dumps(record.not_isolated), record.created_ns),
        )  # fmt: skip

    def remove(self, job_id: str) -> None:
        """Forgets a job. Its events stay until they are acknowledged."""
        self._db.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))

    def parked(self, job_id: str, init: InitProcess, body: Started) -> None:
        """The command is attested and is about to be told to go. From here on it may have run."""
        self._db.execute("UPDATE jobs SET init = ?, parked = ? WHERE job_id = ?", (_dump(init), _dump(body), job_id))

    def started(self, job_id: str, time_ns: int) -> Event:
        """INITIALIZING -> RUNNING with its event, whose body was stored by `parked`."""
        body, text = _parked(job_id, self._check(job_id, JobState.RUNNING))
        return self._write(
            [_Entry(job_id, time_ns, "started", body, text)],
            "UPDATE jobs SET state = ?, started_ns = ? WHERE job_id = ?",
            (JobState.RUNNING, body.started_ns, job_id),
        )

    def ended(self, job_id: str, outcome: Outcome, time_ns: int) -> Event:
        """To a terminal state with its event."""
        self._check(job_id, outcome.state)
        return self._end(outcome, [_Entry(job_id, time_ns, "ended", outcome, _dump(outcome))])

    def ran(self, job_id: str, started_time_ns: int, outcome: Outcome, time_ns: int) -> Event:
        """`started` and `ended` at once, for a job that ended before the first was told; the second event."""
        body, text = _parked(job_id, self._check(job_id, JobState.RUNNING))
        check_transition(JobState.RUNNING, outcome.state)
        return self._end(
            outcome,
            [
                _Entry(job_id, started_time_ns, "started", body, text),
                _Entry(job_id, time_ns, "ended", outcome, _dump(outcome)),
            ],
        )

    def job(self, job_id: str) -> Record | None:
        row = self._db.execute(f"{_SELECT} WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else _record(row)

    def jobs(self) -> list[Record]:
        """All jobs, oldest first."""
        return [_record(row) for row in self._db.execute(f"{_SELECT} ORDER BY created_ns, job_id")]

    def forget(self, job_id: str) -> None:
        """Removes an ended job; its end is known elsewhere, and so are all events before. FailedPrecondition if it
        runs."""
        state = self._state(job_id)
        if state is None:
            raise JobNotFound(job_id)
        if state not in TERMINAL:
            raise FailedPrecondition(f"job has not ended: {job_id} (current status: {state})")
        self.forget_ended([job_id])

    def forget_ended(self, job_ids: Iterable[str]) -> list[str]:
        """As `forget`, for those of the jobs that have ended; the others that there are."""
        states = {job_id: self._state(job_id) for job_id in job_ids}
        over = [job_id for job_id, state in states.items() if state in TERMINAL]
        last = max((self._end_of(job_id) for job_id in over), default=0)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("DELETE FROM jobs WHERE job_id = ?", [(job_id,) for job_id in over])
            self._drop_events(last)
        return [job_id for job_id, state in states.items() if state is not None and state not in TERMINAL]

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
        rows = self._db.execute(
            "SELECT sequence, job_id, time_ns, kind, body FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, limit),
        )
        events = [_read_event(row) for row in rows]
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
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._drop_events(sequence)

    def _end_of(self, job_id: str) -> int:
        # 0 when that event is acknowledged already.
        query = "SELECT max(sequence) FROM events WHERE job_id = ? AND kind = 'ended'"
        return int(self._db.execute(query, (job_id,)).fetchone()[0] or 0)

    def _check_given_out(self, sequence: int) -> None:
        if sequence > self.last_sequence:
            raise OutOfRange(f"event {sequence} does not exist; the last one is {self.last_sequence}")

    def _drop_events(self, sequence: int) -> None:
        """Inside a transaction."""
        self._db.execute("DELETE FROM events WHERE sequence <= ?", (sequence,))
        self._db.execute("UPDATE counter SET last_sequence = ?", (self.last_sequence,))
        while self._latest and self._latest[0].sequence <= sequence:
            self._latest.popleft()

    def _state(self, job_id: str) -> JobState | None:
        row = self._db.execute("SELECT state FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else JobState(row[0])

    def _check(self, job_id: str, new: JobState) -> str | None:
        """That the job may become `new`; what `parked` stored of it."""
        row = self._db.execute("SELECT state, parked FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise JobNotFound(job_id)
        check_transition(JobState(row[0]), new)
        text: str | None = row[1]
        return text

    def _end(self, outcome: Outcome, entries: Sequence["_Entry"]) -> Event:
        return self._write(
            entries,
            "UPDATE jobs SET state = ?, started_ns = ?, outcome = ? WHERE job_id = ?",
            (outcome.state, outcome.started_ns, entries[-1].text, entries[-1].job_id),
        )

    def _write(self, entries: Sequence["_Entry"], change: str, values: Sequence[object]) -> Event:
        """One transaction; the last of the events in it."""
        first = self.last_sequence + 1
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(change, values)
            for sequence, entry in enumerate(entries, first):
                self._db.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                    (sequence, entry.job_id, entry.time_ns, entry.kind, entry.text),
                )
        for entry in entries:
            self.last_sequence += 1
            self._latest.append(Event(self.last_sequence, entry.job_id, entry.time_ns, entry.body))
        return self._latest[-1]

    def _value(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event that has no number yet; `text` is the JSON of its body."""

    job_id: str
    time_ns: int
    kind: str
    body: Started | Outcome
    text: str


def _parked(job_id: str, text: str | None) -> tuple[Started, str]:
    if text is None:
        raise Internal(f"job {job_id} cannot have started: it never parked")
    return _started(json.loads(text)), text


_LAST_SEQUENCE: Final = (
    "SELECT max((SELECT last_sequence FROM counter), (SELECT coalesce(max(sequence), 0) FROM events))"
)
_SELECT: Final = (
    "SELECT job_id, state, command, uid_base, memory_bytes, timeout_seconds, not_isolated, created_ns, init, parked,"
    " started_ns, outcome FROM jobs"
)


def _dump(value: InitProcess | Started | Outcome) -> str:
    return _ENCODER.encode(value)


def _fields(value: Any) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, which costs more than the transaction.
    return {field.name: getattr(value, field.name) for field in fields(value)}


_ENCODER: Final = json.JSONEncoder(default=_fields, separators=(",", ":"))


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
