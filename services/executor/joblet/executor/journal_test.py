import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from joblet.common.errors import FailedPrecondition, Internal, JobNotFound, OutOfRange, StartError
from joblet.common.states import IllegalTransition, JobState
from joblet.executor.job import Event
from joblet.executor.journal import Journal
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


def test_jobs_come_oldest_first(journal: Journal) -> None:
    journal.add(record(job_id=JOB_ID, created_ns=2))
    journal.add(record(job_id=OTHER_ID, created_ns=1))
    assert [job.job_id for job in journal.jobs()] == [OTHER_ID, JOB_ID]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

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
from joblet.executor.journal import Journal
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
