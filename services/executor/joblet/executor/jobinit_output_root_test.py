"""jobinit alone on the real kernel: every byte of a job's output arrives, whatever the job and the disk do."""

import hashlib
import os
import stat
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from joblet.executor import exitrecord, syscalls
from joblet.executor.exitrecord import EndReason
from joblet.executor.jobinit_for_tests import MIB, Job, read_index, readable, until

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

INDEX_INTERVAL_MS = 10


def grow(directory: Path) -> None:
    syscalls.mount("jbtest", str(directory), "tmpfs", syscalls.MS_REMOUNT, "size=64m")


def is_marked(directory: Path) -> bool:
    """Whether init says that it waits for room."""
    return bool((directory / "output").stat().st_mode & stat.S_ISVTX)


def test_a_hundred_megabytes_arrive_byte_for_byte(job: Job) -> None:
    script = (
        "import hashlib, os\n"
        "block = os.urandom(1 << 20)\n"
        "digest = hashlib.sha256()\n"
        "for i in range(100):\n"
        "  part = block[i:] + block[:i] + b'.' * (i % 7)\n"
        "  digest.update(part)\n"
        "  while part: part = part[os.write(1 + i % 2, part[: 4001 + (i * 7919) % 300000]) :]\n"
        "print(digest.hexdigest())\n"
    )
    ended = job.run(job.spec("python3", "-ISc", script))
    body, digest = ended.output[:-65], ended.output[-65:-1].decode()
    assert hashlib.sha256(body).hexdigest() == digest
    totals = [entry.bytes for entry in ended.index]
    assert totals == sorted(totals)
    assert totals[-1] == len(ended.output)
    times = [entry.time_ns for entry in ended.index[:-1]]
    assert all(after - before >= INDEX_INTERVAL_MS * 900_000 for before, after in pairwise(times))


def test_tricks_with_the_pipe_lose_nothing(job: Job) -> None:
    script = (
        "import fcntl, os\n"
        "fcntl.fcntl(1, 1031, 4096)\n"  # F_SETPIPE_SZ
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT | os.O_WRONLY)\n"  # packets
        "for i in range(3000): os.write(1, b'%d,' % i)\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY)\n"
        "with open('data', 'wb') as file: file.write(bytes(range(256)) * 4000)\n"
        "with open('data', 'rb') as file:\n"
        "  left = 256 * 4000\n"
        "  while left: left -= os.splice(file.fileno(), 1, left)\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK | os.O_WRONLY)\n"
        "part = b'z' * 3000000\n"
        "while part:\n"
        "  try: part = part[os.write(1, part) :]\n"
        "  except BlockingIOError: pass\n"
    )
    output = job.run(job.spec("python3", "-ISc", script)).output
    assert output == b"".join(b"%d," % i for i in range(3000)) + bytes(range(256)) * 4000 + b"z" * 3000000


def test_a_job_writes_no_faster_than_it_may(job: Job) -> None:
    rate = 4 * MIB
    ended = job.run(job.spec("head", "-c", str(2 * rate), "/dev/zero", log_rate=rate))
    # In any time as much as the rate says, what 0.1 s of silence saved up and one splice; the rest at the end is free.
    free = 2 * rate // 10 + INDEX_INTERVAL_MS * rate // 1000
    for before, after in pairwise(ended.index[:-1]):
        assert after.bytes - before.bytes <= (after.time_ns - before.time_ns) * rate // 10**9 + free
    assert ended.output == bytes(2 * rate)


def test_a_limited_job_is_stopped_at_once(job: Job) -> None:
    job.start(job.spec("yes", log_rate=1))
    until(lambda: job.output() != b"", "nothing is written")
    job.stop()
    assert job.end().record.reason is EndReason.STOPPED


def test_output_is_indexed_while_the_job_runs(job: Job) -> None:
    job.start(job.spec("sh", "-c", "echo one; read x < /dev/ptmx"))
    until(lambda: [(e.bytes, e.kind) for e in read_index(job.log / "index")] == [(4, 1)], "no index entry")
    job.stop()
    assert [(entry.bytes, entry.kind) for entry in job.end().index] == [(4, 1), (4, 2)]


def test_a_job_that_closes_its_output_costs_init_nothing(job: Job) -> None:
    job.start(job.spec("sh", "-c", "exec >&- 2>&-; sleep 0.5"))
    assert job.wait_end() == 0
    # What init itself used: its children are in the record.
    record = exitrecord.read(job.directory)
    assert record is not None
    assert record.reason is EndReason.EXIT
    assert job.init_cpu_seconds < 0.2


def test_a_full_disk_makes_the_job_wait(job: Job, small_log: Path) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i of the output; i=$((i+1)); done"
    job.start(job.spec("sh", "-c", script), log=small_log)
    until(lambda: (small_log / "output").stat().st_size > 240_000, "log does not grow")
    until(lambda: is_marked(small_log), "nobody is told that the job waits")
    assert not readable(job.pidfd, 0.3)
    grow(small_log)
    ended = job.end()
    assert not is_marked(small_log)
    assert ended.output == b"".join(b"line %d of the output\n" % i for i in range(20000))
    assert (ended.record.exit_code, ended.index[-1].kind, ended.index[-1].bytes) == (0, 2, len(ended.output))


def test_a_job_waiting_for_disk_can_be_stopped_and_nothing_is_dropped(job: Job, small_log: Path) -> None:
    job.start(job.spec("yes", timeout_ms=3000), log=small_log)
    until(lambda: is_marked(small_log), "the log is not filled before the timeout")
    until(lambda: exitrecord.read(job.directory) is not None, "timeout does not work while the disk is full")
    assert not readable(job.pidfd, 0.2), "init must wait for space"
    grow(small_log)
    ended = job.end()
    assert ended.record.reason is EndReason.TIMEOUT
    assert len(ended.output) > MIB, "the pipe's content belongs to the log"
    assert ended.output.strip(b"y\n") == b""
    assert (ended.index[-1].kind, ended.index[-1].bytes) == (2, len(ended.output))


def test_an_index_entry_cut_by_a_full_disk_is_completed(job: Job, small_log: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    entry = struct.pack("<QQI", 0, 0, 1)
    entry += struct.pack("<I", zlib.crc32(entry))
    earlier = page // len(entry)  # the next entry crosses the end of the page
    (small_log / "index").write_bytes(entry * earlier)
    room = os.statvfs(small_log).f_bavail * page
    (small_log / "filler").write_bytes(bytes(room - page))  # one page is left, for the output
    job.start(job.spec("sh", "-c", "echo hello; read x < /dev/ptmx"), log=small_log)
    until(lambda: (small_log / "index").stat().st_size == page, "no entry was cut")
    (small_log / "filler").unlink()
    until(lambda: (small_log / "index").stat().st_size == (earlier + 1) * len(entry), "not completed")
    job.stop()
    assert [(e.bytes, e.kind) for e in job.end().index[earlier:]] == [(6, 1), (6, 2)]
