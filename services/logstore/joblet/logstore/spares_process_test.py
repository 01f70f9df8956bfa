"""Spare logs when the logstore is killed, and when nobody holds them any more: with a real process."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc

from joblet.logstore.index import Entry, Kind, append, encode
from joblet.logstore.keeping_test import JOB, delete, job, read, status
from joblet.logstore.spares import Spare
from joblet.logstore.testing import LogStoreProcess, eventually, logstore


def prepared(process: LogStoreProcess, count: int) -> list[Spare]:
    """For the caller to close."""
    answer, fds = process.request({"op": "prepare", "count": count})
    names = answer["spares"]
    assert isinstance(names, list)
    return [Spare(*fields) for fields in zip(names, fds[::2], fds[1::2], strict=True)]


@contextmanager
def holding(process: LogStoreProcess, count: int) -> Iterator[list[Spare]]:
    spares = prepared(process, count)
    try:
        yield spares
    finally:
        for spare in spares:
            spare.close()


def name(process: LogStoreProcess, spare: Spare, job_id: str) -> dict[str, object]:
    return process.request({"op": "name", "spare": spare.name, "job_id": job_id})[0]


def there(process: LogStoreProcess) -> list[str]:
    return sorted(os.listdir(process.directory / "logs"))


def end(spare: Spare, content: bytes) -> None:
    os.write(spare.output, content)
    append(spare.index, encode(Entry(len(content), 1, Kind.END)))


def kill_and_start(process: LogStoreProcess) -> None:
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    process.start()


def test_spares_outlive_the_logstore_and_no_job_is_known_by_them(tmp_path: Path) -> None:
    with logstore(tmp_path, retention={"maxAge": "1ms"}) as process, holding(process, 3) as (first, second, third):
        kill_and_start(process)
        assert there(process) == sorted(spare.name for spare in (first, second, third))
        for call in (status, delete):
            assert call(process, first.name) is grpc.StatusCode.INVALID_ARGUMENT
        assert name(process, first, JOB) == {"ok": True}
        kill_and_start(process)
        assert name(process, first, JOB) == {"ok": True}  # the answer may have been lost
        kill_and_start(process)
        os.write(first.output, b"hello")
        assert process.ask("finish", JOB)[0] == {"ok": True, "bytes": 5}
        eventually(lambda: there(process) == sorted([second.name, third.name]))  # retention took the log alone


def test_a_spare_that_got_a_name_is_followed_and_counted(tmp_path: Path) -> None:
    with logstore(tmp_path) as process, holding(process, 2) as (first, second):
        eventually(lambda: process.metric("joblet_log_disk_free_bytes") > 0)  # it knows what there was at its start
        assert process.metric("joblet_log_open_total") == 0
        assert name(process, second, JOB) == {"ok": True}
        end(second, b"second")
        assert read(process) == b"second"
        assert name(process, first, job(1)) == {"ok": True}
        end(first, b"first")
        assert read(process, job_id=job(1)) == b"first"
        assert process.metric("joblet_log_open_total") == 2
        eventually(lambda: process.metric("joblet_log_bytes_written_total") == len(b"second" + b"first"))


def test_spares_go_when_their_holder_does(tmp_path: Path) -> None:
    with logstore(tmp_path) as process:
        with holding(process, 4) as spares:
            with closing(prepared(process, 1)[0]):
                assert len(there(process)) == 5
            eventually(lambda: there(process) == sorted(spare.name for spare in spares))
        eventually(lambda: there(process) == [])


def test_spares_that_lost_their_holder_while_the_logstore_was_away_go_at_its_start(tmp_path: Path) -> None:
    with logstore(tmp_path) as process:
        with holding(process, 4) as spares:
            name(process, spares[0], JOB)
            process.end(signal.SIGKILL)
        process.start()
        assert there(process) == [JOB]
