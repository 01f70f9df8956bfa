import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition, Internal, JobNotFound, OutOfRange, StartError
from joblet.common.states import IllegalTransition, JobState
from joblet.executor.job import Event
from joblet.executor.journal import Journal, _dump
from joblet.executor.testing import INIT, JOB_ID, OTHER_ID, STARTED, outcome, record


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.db")) as opened:
        yield opened


def run_to_end(journal: Journal, job_id: str) -> None:
    journal.add(record(job_id=job_id))
    journal.parked(job_id, INIT, STARTED)
    journal.started(job_id, 21)
    journal.ended(job_id, outcome(), 31)


def test_a_job_and_its_events_read_back_as_written(journal: Journal, tmp_path: Path) -> None:
    run_to_end(journal, JOB_ID)
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert again.job(JOB_ID) == record(
            state=JobState.COMPLETED, init=INIT, parked=STARTED, started_ns=20, outcome=outcome()
        )
        assert again.events(0, 10) == [Event(1, JOB_ID, 21, STARTED), Event(2, JOB_ID, 31, outcome())]
        assert again.last_sequence == 2


def test_a_short_job_is_told_in_one_transaction(journal: Journal, tmp_path: Path) -> None:
    journal.add(record())
    journal.parked(JOB_ID, INIT, STARTED)
    last = journal.ran(JOB_ID, 21, outcome(), 31)
    told = [Event(1, JOB_ID, 21, STARTED), Event(2, JOB_ID, 31, outcome())]
    assert (last, journal.events(0, 10), journal.events(0, 1), journal.events(2, 10)) == (told[1], told, told[:1], [])
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert again.events(0, 10) == told
        assert again.job(JOB_ID) == record(
            state=JobState.COMPLETED, init=INIT, parked=STARTED, started_ns=20, outcome=outcome()
        )
        assert again.last_sequence == 2
    journal.add(record(job_id=OTHER_ID))
    with pytest.raises(Internal, match="never parked"):
        journal.ran(OTHER_ID, 41, outcome(), 51)
    assert journal.last_sequence == 2


def test_what_was_only_accepted_is_there_until_its_executor_is_gone(journal: Journal, tmp_path: Path) -> None:
    journal.add(record())
    assert (journal.job(JOB_ID), journal.jobs()) == (record(), [record()])
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert (again.job(JOB_ID), again.jobs()) == (None, [])
    journal.parked(JOB_ID, INIT, STARTED)
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert again.jobs() == [record(init=INIT, parked=STARTED)] == journal.jobs()


def test_what_ends_before_it_parks_is_written_with_its_end(journal: Journal, tmp_path: Path) -> None:
    journal.add(record())
    failed = outcome(state=JobState.FAILED, exit_code=125, started_ns=0)
    event = journal.ended(JOB_ID, failed, 31)
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert again.jobs() == [record(state=JobState.FAILED, outcome=failed)] == journal.jobs()
        assert again.events(0, 10) == [event] == [Event(1, JOB_ID, 31, failed)]


def test_a_running_job_reads_the_same_from_memory_and_from_disk(journal: Journal, tmp_path: Path) -> None:
    journal.add(record())
    journal.parked(JOB_ID, INIT, STARTED)
    journal.started(JOB_ID, 21)
    running = record(state=JobState.RUNNING, init=INIT, parked=STARTED, started_ns=20)
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert (journal.job(JOB_ID), again.job(JOB_ID)) == (running, running)
        assert again.ended(JOB_ID, outcome(), 31) == Event(2, JOB_ID, 31, outcome())
        assert again.job(JOB_ID) == replace(running, state=JobState.COMPLETED, outcome=outcome())


def test_without_room_nothing_more_is_accepted(journal: Journal) -> None:
    def refused(database: sqlite3.Connection, write: Callable[[], object]) -> None:
        database.execute("PRAGMA query_only=ON")  # as on a full disk, every attempt to write fails
        with pytest.raises(sqlite3.OperationalError):
            write()

    journal.add(record())
    refused(journal._db, lambda: journal.parked(JOB_ID, INIT, STARTED))
    refused(journal._db, lambda: journal.add(record(job_id=OTHER_ID)))
    assert journal.jobs() == [record()]
    journal._db.execute("PRAGMA query_only=OFF")
    journal.add(record(job_id=OTHER_ID))
    journal.parked(JOB_ID, INIT, STARTED)
    assert journal.jobs() == [record(job_id=OTHER_ID), record(init=INIT, parked=STARTED)]


def test_a_change_that_states_forbid_writes_neither_job_nor_event(journal: Journal) -> None:
    run_to_end(journal, JOB_ID)
    with pytest.raises(IllegalTransition):
        journal.ended(JOB_ID, outcome(state=JobState.FAILED, exit_code=1), 41)
    with pytest.raises(IllegalTransition):
        journal.started(JOB_ID, 41)
    assert journal.last_sequence == 2
    stored = journal.job(JOB_ID)
    assert stored is not None
    assert stored.state is JobState.COMPLETED


def test_numbers_have_no_gaps_and_outlive_acknowledged_events(journal: Journal, tmp_path: Path) -> None:
    run_to_end(journal, JOB_ID)
    journal.acknowledge(2)
    assert journal.events(2, 10) == []
    with closing(Journal(tmp_path / "journal.db")) as again:
        assert again.last_sequence == 2
        run_to_end(again, OTHER_ID)
        assert [event.sequence for event in again.events(2, 10)] == [3, 4]
        assert [event.sequence for event in again.events(3, 10)] == [4]


def test_events_that_never_were_and_events_that_are_gone(journal: Journal) -> None:
    run_to_end(journal, JOB_ID)
    with pytest.raises(OutOfRange, match="the last one is 2"):
        journal.events(3, 10)
    with pytest.raises(OutOfRange):
        journal.acknowledge(3)
    journal.acknowledge(1)
    with pytest.raises(FailedPrecondition, match="events 1 to 1"):
        journal.events(0, 10)
    assert [event.sequence for event in journal.events(1, 10)] == [2]


def test_forgetting_many_leaves_those_that_have_not_ended(journal: Journal) -> None:
    journal.add(record())
    run_to_end(journal, OTHER_ID)
    assert journal.forget_ended([JOB_ID, OTHER_ID, "never heard of"]) == [JOB_ID]
    assert [job.job_id for job in journal.jobs()] == [JOB_ID]
    assert journal.events(2, 10) == []
    assert journal.last_sequence == 2


def test_forgetting_needs_an_end_and_takes_the_events_before_along(journal: Journal) -> None:
    journal.add(record())
    with pytest.raises(FailedPrecondition, match="INITIALIZING"):
        journal.forget(JOB_ID)
    journal.ended(JOB_ID, outcome(state=JobState.FAILED), 31)
    journal.add(record(job_id=OTHER_ID))
    journal.ended(OTHER_ID, outcome(), 41)
    journal.forget(JOB_ID)
    assert journal.job(JOB_ID) is None
    assert [event.job_id for event in journal.events(1, 10)] == [OTHER_ID]
    with pytest.raises(JobNotFound):
        journal.forget(JOB_ID)


def test_what_is_forgotten_leaves_nothing(journal: Journal, tmp_path: Path) -> None:
    run_to_end(journal, JOB_ID)
    run_to_end(journal, OTHER_ID)
    journal.forget_ended([OTHER_ID])
    rows = {table: list(journal._db.execute(f"SELECT * FROM {table}")) for table in ("jobs", "starts", "events")}
    assert (len(rows["jobs"]), len(rows["starts"]), rows["events"]) == (1, 1, [])
    with closing(Journal(tmp_path / "journal.db")) as again:
        stored = again.job(JOB_ID)
        assert stored is not None
        assert stored.parked == STARTED


def test_jobs_come_oldest_first(journal: Journal) -> None:
    journal.add(record(job_id=JOB_ID, created_ns=2))
    journal.add(record(job_id=OTHER_ID, created_ns=1))
    assert [job.job_id for job in journal.jobs()] == [OTHER_ID, JOB_ID]


VERSION_1 = """
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY, state TEXT NOT NULL, command TEXT NOT NULL, uid_base INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL, timeout_seconds INTEGER NOT NULL, not_isolated TEXT NOT NULL,
    created_ns INTEGER NOT NULL, init TEXT, parked TEXT, started_ns INTEGER NOT NULL DEFAULT 0, outcome TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY, job_id TEXT NOT NULL, time_ns INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE counter (last_sequence INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (4);
PRAGMA user_version=1;
"""


def test_a_journal_of_version_1_is_taken_over(tmp_path: Path) -> None:
    init, started, ended = _dump(INIT), _dump(STARTED), _dump(outcome())
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database, database:
        database.executescript(VERSION_1)
        database.executemany(
            "INSERT INTO jobs VALUES (?, ?, 'true', 1879048192, 67108864, 0, '[]', 10, ?, ?, ?, ?)",
            [
                ("accepted", "INITIALIZING", None, None, 0, None), ("ended", "COMPLETED", init, started, 20, ended),
                ("runs", "RUNNING", init, started, 20, None),
            ],
        )  # fmt: skip
        database.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            [
                (5, "runs", 21, "started", started), (6, "ended", 21, "started", started),
                (7, "ended", 31, "ended", ended),
            ],
        )  # fmt: skip
    expected = [
        record(job_id="accepted"),
        record(job_id="ended", state=JobState.COMPLETED, init=INIT, parked=STARTED, started_ns=20, outcome=outcome()),
        record(job_id="runs", state=JobState.RUNNING, init=INIT, parked=STARTED, started_ns=20),
    ]
    for _ in range(2):
        with closing(Journal(tmp_path / "journal.db")) as journal:
            assert journal.jobs() == expected
            assert [event.sequence for event in journal.events(4, 10)] == [5, 6, 7]
            assert [event.body for event in journal.events(4, 10)] == [STARTED, STARTED, outcome()]
    with closing(Journal(tmp_path / "journal.db")) as journal:
        journal.remove("accepted")
        run_to_end(journal, JOB_ID)
        journal.forget("ended")
        assert [job.job_id for job in journal.jobs()] == [JOB_ID, "runs"]
        assert [event.sequence for event in journal.events(7, 10)] == [8, 9]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(StartError, match="version 99"):
        Journal(tmp_path / "journal.db")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StartError, match="cannot open the journal"):
        Journal(tmp_path / "journal.db")


def test_the_log_cut_at_any_byte_leaves_a_whole_number_of_changes(journal: Journal, tmp_path: Path) -> None:
    """What a crash leaves of the write-ahead log is a prefix; each one opens to a state that existed."""
    run_to_end(journal, JOB_ID)
    database, log = (tmp_path / "journal.db").read_bytes(), (tmp_path / "journal.db-wal").read_bytes()
    seen = set()
    # Every byte of the log's header, the first frame's header and the end; each frame's beginning and middle.
    frame = 4096 + 24
    cuts = {*range(64), *range(len(log) - 32, len(log) + 1), *range(32, len(log), frame // 2)}
    for number, cut in enumerate(sorted(cuts)):
        copy = tmp_path / f"cut{number}"
        copy.mkdir()
        (copy / "journal.db").write_bytes(database)
        (copy / "journal.db-wal").write_bytes(log[:cut])
        with closing(Journal(copy / "journal.db")) as cut_off:
            events, jobs = cut_off.events(0, 10), cut_off.jobs()
            assert [event.sequence for event in events] == list(range(1, cut_off.last_sequence + 1))
            seen.add((len(events), jobs[0].state if jobs else None))
            assert (len(events) == 2) == bool(jobs and jobs[0].outcome)
        shutil.rmtree(copy)
    assert seen == {
        (0, None), (0, JobState.INITIALIZING), (1, JobState.RUNNING), (2, JobState.COMPLETED),
    }  # fmt: skip


KILLED_WRITER = """
import sys
from pathlib import Path
from joblet.executor.journal import Journal, _dump
from joblet.executor.journal_test import run_to_end
from joblet.common.ids import new_job_id
journal = Journal(Path(sys.argv[1]))
while True:
    run_to_end(journal, new_job_id())
    print(journal.last_sequence, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_told(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "journal.db"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, path], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        told = 0
        for _ in range(lines):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
    with closing(Journal(path)) as journal:
        events = journal.events(0, 10_000)
        assert journal.last_sequence >= told
        assert [event.sequence for event in events] == list(range(1, journal.last_sequence + 1))
        ended = {event.job_id for event in events if event.sequence % 2 == 0}
        assert {job.job_id for job in journal.jobs() if job.outcome is not None} == ended
        journal.add(replace(record(), job_id=JOB_ID))
