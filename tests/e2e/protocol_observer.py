"""An independent witness: looks at ListJobs, the gateway's store and the executor's journal, and changes nothing.

Both databases are SQLite files in WAL mode, opened read-only; each look is one read transaction, so what it sees of a
file is consistent.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from local_system import wait_for

from joblet.api.job_pb2 import EmptyRequest
from joblet.api.job_pb2_grpc import JobServiceStub
from joblet.common.states import TERMINAL, TRANSITIONS, JobState, Reason

LOOK_SECONDS = 0.02
API_SECONDS = 5.0
LAST_NUMBER = "SELECT max((SELECT last_sequence FROM counter), (SELECT coalesce(max(sequence), 0) FROM events))"
EVENTS = (
    "SELECT sequence, job_id, time_ns, kind, iif(kind = 'started', body, outcome)"
    " FROM events LEFT JOIN jobs USING (job_id) LEFT JOIN starts ON number = start ORDER BY sequence"
)
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def _reachable() -> Mapping[JobState, frozenset[JobState]]:
    """By any number of legal changes, none included: a look may miss states in between."""
    found = {state: {state} for state in JobState}
    for _ in JobState:
        for reached in found.values():
            reached |= {new for state in reached for new in TRANSITIONS[state]}
    return {state: frozenset(reached) for state, reached in found.items()}


REACHABLE = _reachable()


@dataclass(frozen=True, slots=True)
class Numbers:
    """The last event that the gateway has applied and the last one that the executor has given out."""

    applied: int
    given_out: int


class Observer:
    """Looks from its own thread until `close`; `problems` is what must not have happened."""

    def __init__(self, directory: Path, stub: JobServiceStub) -> None:
        self.problems: list[str] = []
        self.looks = 0
        self._store = directory / "state/gateway/gateway.db"
        self._journal = directory / "state/executor/journal.db"
        self._stub = stub
        self._states: dict[tuple[str, str], JobState] = {}
        self._ends: dict[str, Mapping[str, object]] = {}
        self._events: dict[int, tuple[object, ...]] = {}
        self._kinds: dict[tuple[str, str], int] = {}
        self._numbers = Numbers(0, 0)
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_looking, args=(look,), name=look.__name__, daemon=True)
            for look in (self._look_at_files, self._look_at_api)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Waits for the last look."""
        self._done.set()
        for thread in self._threads:
            thread.join(API_SECONDS * 2)

    def seen_running(self, job_id: str) -> bool:
        """Whether its node has said that the job runs, or has ended."""
        seen = [self._states.get((where, job_id)) for where in ("journal", "store")]
        return any(state is not None and state is not JobState.INITIALIZING for state in seen)

    def check_events(self) -> None:
        """When every job has ended: all events are applied, and there are as many as the jobs' histories have."""
        wait_for("every event is applied", lambda: self._numbers_now().applied == self._numbers_now().given_out)
        with _reading(self._store) as store:
            rows = list(store.execute("SELECT state, reason, started_ns FROM jobs"))
        least = most = 0
        for state, reason, started_ns in rows:
            assert state in TERMINAL
            if started_ns:
                least, most = least + 2, most + 2  # started, ended
            elif reason == Reason.NOT_FOUND:
                least, most = least + 1, most + 1  # ended
            else:  # stopped or given up before its node said that it runs; what the node did with it is its own affair
                most += 2
        given_out = self._numbers_now().given_out
        assert least <= given_out <= most, f"{given_out} events of {len(rows)} jobs, expected {least} to {most}"

    def _keep_looking(self, look: Any) -> None:
        while not self._done.wait(LOOK_SECONDS):
            try:
                look()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):  # by a service that recovers the file after kill -9
                    self._problem(f"{look.__name__}: {error}")
            except Exception as error:  # a witness that ends in silence would let everything pass
                self._problem(f"{look.__name__}: {error!r}")
                raise

    def _look_at_api(self) -> None:
        token = ""
        while True:
            try:
                page = self._stub.ListJobs(EmptyRequest(pageToken=token), timeout=API_SECONDS)
            except grpc.RpcError as error:
                # CANCELLED: it was asked just when the gateway ended in an orderly way.
                if error.code() not in AWAY:
                    self._problem(f"ListJobs: {error}")
                return
            for job in page.jobs:
                self._see("api", job.id, job.status)
            token = page.nextPageToken
            if not token:
                return

    def _look_at_files(self) -> None:
        self._numbers_now()
        with _reading(self._store) as store:
            store.row_factory = sqlite3.Row
            for row in store.execute("SELECT * FROM jobs"):
                self._see("store", row["id"], row["state"])
                if row["state"] in TERMINAL:
                    self._see_end({key: row[key] for key in row.keys() if key != "acknowledged"})  # noqa: SIM118
        with _reading(self._journal) as journal:
            (last,) = journal.execute(LAST_NUMBER).fetchone()
            events = list(journal.execute(EVENTS))
            jobs = list(journal.execute("SELECT job_id, state FROM jobs"))
        expected = list(range(last - len(events) + 1, last + 1))
        if [event[0] for event in events] != expected:
            self._problem(f"gap in the events: {[event[:4] for event in events]}, the last one is {last}")
        for event in events:
            if event[4] is None:
                self._problem(f"event without a body: {event}")
            self._see_event(event)
        for job_id, state in jobs:
            self._see("journal", job_id, state)
        self.looks += 1

    def _numbers_now(self) -> Numbers:
        # In this order: what is applied was given out before.
        with _reading(self._store) as store:
            row = store.execute("SELECT max(last_sequence) FROM nodes").fetchone()
        with _reading(self._journal) as journal:
            (given_out,) = journal.execute(LAST_NUMBER).fetchone()
        now, before = Numbers(row[0] or 0, given_out), self._numbers
        if now.applied > now.given_out:
            self._problem(f"more events applied than there are: {now}")
        if threading.current_thread() is self._threads[0]:
            if now.applied < before.applied or now.given_out < before.given_out:
                self._problem(f"event numbers went back: {before}, then {now}")
            self._numbers = now
        return now

    def _see(self, where: str, job_id: str, status: str) -> None:
        state = JobState(status)
        before = self._states.get((where, job_id))
        if before is not None and state not in REACHABLE[before]:
            self._problem(f"{where}: job {job_id} went from {before} to {state}")
        self._states[where, job_id] = state

    def _see_end(self, row: Mapping[str, object]) -> None:
        job_id = str(row["id"])
        before = self._ends.setdefault(job_id, row)
        if row != before:
            changed = {key: (before[key], row[key]) for key in row if row[key] != before[key]}
            self._problem(f"the end of job {job_id} has changed: {changed}")

    def _see_event(self, event: tuple[Any, ...]) -> None:
        sequence, job_id, _, kind, _ = event
        if self._events.setdefault(sequence, event) != event:
            self._problem(f"event {sequence} was {self._events[sequence]} and is {event}")
        if self._kinds.setdefault((job_id, kind), sequence) != sequence:
            self._problem(f"job {job_id} has two events {kind}: {self._kinds[job_id, kind]} and {sequence}")
        if kind == "started" and self._kinds.get((job_id, "ended"), sequence) < sequence:
            self._problem(f"job {job_id} started after its end")

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One read transaction."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5, isolation_level=None)) as database:
        database.execute("BEGIN")
        yield database
