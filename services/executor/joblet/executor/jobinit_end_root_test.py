"""jobinit alone on the real kernel: how jobs end, and that nothing of them is left."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from joblet.executor import exitrecord
from joblet.executor.cgroup.limits import Limits
from joblet.executor.exitrecord import EndReason, RecordFlag
from joblet.executor.jobinit_for_tests import (
    DEADLINE_SECONDS,
    MIB,
    Failed,
    Job,
    Node,
    errno_of,
    prints,
    readable,
    unlimited,
    until,
)
from joblet.executor.jobspec import Stage

pytestmark = [pytest.mark.root, pytest.mark.single_threaded]

LONG_MS = 600_000
SOON_SECONDS = 60.0  # on a busy machine; much less than LONG_MS and than what the jobs sleep


def test_a_signal_ends_a_job(job: Job) -> None:
    record = job.run(job.spec("sh", "-c", "kill -USR1 $$")).record
    assert (record.exit_code, record.signal, record.reason) == (138, signal.SIGUSR1, EndReason.SIGNAL)


def test_what_a_job_leaves_behind_is_killed(job: Job) -> None:
    script = "setsid sh -c 'trap \"\" TERM HUP; while :; do echo x; done' & setsid sleep 1000 & sleep 0.05; exit 3"
    ended = job.run(job.spec("sh", "-c", script))
    assert (ended.record.exit_code, ended.record.reason) == (3, EndReason.EXIT)
    assert ended.output.strip(b"x\n") == b""
    assert (ended.index[-1].kind, ended.index[-1].bytes) == (2, len(ended.output))
    job.cgroup.remove()  # fails if a process is left


def test_stop_gives_the_command_its_grace(job: Job) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    job.start(job.spec("sh", "-c", script, grace_ms=LONG_MS))
    prints(job, b"ready")
    job.stop()
    ended = job.end()
    assert ended.output.endswith(b"bye\n")  # before it the shell says that its child got the signal too
    record = ended.record
    assert (record.exit_code, record.signal, record.reason) == (-1, 0, EndReason.STOPPED)
    assert record.flags == RecordFlag.STARTED


def test_stop_reaches_the_whole_process_group(job: Job) -> None:
    script = "trap 'wait; exit' TERM; sh -c \"trap 'echo child; exit' TERM; echo r2; sleep 100 & wait\" & echo r1; wait"
    job.start(job.spec("sh", "-c", script, grace_ms=LONG_MS))
    prints(job, b"r1")
    prints(job, b"r2")
    job.stop()
    assert b"child" in job.end().output


def test_a_command_that_ignores_term_is_killed_after_the_grace(job: Job) -> None:
    job.start(job.spec("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done", grace_ms=150))
    prints(job, b"ready")
    began = time.monotonic()
    job.stop()
    record = job.end().record
    assert 0.14 < time.monotonic() - began < SOON_SECONDS
    assert (record.exit_code, record.signal, record.reason) == (-1, signal.SIGKILL, EndReason.STOPPED)
    assert record.flags == RecordFlag.STARTED | RecordFlag.FORCED


def test_stop_before_the_command_is_told_to_go(job: Job) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran", grace_ms=LONG_MS).encode())
    job.init()
    job.parked()
    job.stop()
    ended = job.end(seconds=SOON_SECONDS)
    assert ended.output == b""
    assert (ended.record.exit_code, ended.record.reason, ended.record.started) == (-1, EndReason.STOPPED, False)


def test_stop_as_early_as_possible(job: Job) -> None:
    job.spawn(job.spec("sh", "-c", "echo ran", grace_ms=LONG_MS).encode())
    job.init()
    job.stop()
    ended = job.end(seconds=SOON_SECONDS)
    assert ended.output == b""
    assert (ended.record.exit_code, ended.record.reason, ended.record.started) == (-1, EndReason.STOPPED, False)


def test_a_job_that_ended_before_the_stop_keeps_its_own_end(job: Job) -> None:
    script = "trap 'exit 9' USR1; read x < /dev/ptmx & echo ready; while :; do sleep 0.01; done"
    job.start(job.spec("sh", "-c", script))
    prints(job, b"ready")
    signal.pidfd_send_signal(job.pidfd, signal.SIGSTOP)  # init sees both only when it goes on
    os.kill(job.command, signal.SIGUSR1)
    until(lambda: is_zombie(job.command), "the command did not end")
    job.stop()
    signal.pidfd_send_signal(job.pidfd, signal.SIGCONT)
    record = job.end().record
    assert (record.exit_code, record.reason) == (9, EndReason.EXIT)


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_timeout(job: Job) -> None:
    began = time.monotonic()
    record = job.run(job.spec("sleep", "1000", timeout_ms=200, grace_ms=LONG_MS)).record
    assert 0.19 < time.monotonic() - began < SOON_SECONDS
    assert (record.exit_code, record.signal, record.reason) == (-1, signal.SIGTERM, EndReason.TIMEOUT)


def test_a_flood_of_output_can_be_stopped(job: Job) -> None:
    job.start(job.spec("sh", "-c", "trap '' TERM; yes", grace_ms=50))
    until(lambda: (job.log / "output").stat().st_size > MIB, "no flood")
    job.stop()
    ended = job.end(seconds=SOON_SECONDS)
    assert ended.record.reason is EndReason.STOPPED
    assert ended.output.strip(b"y\n") == b""


def test_a_flood_of_output_times_out(job: Job) -> None:
    ended = job.run(job.spec("yes", timeout_ms=100))
    assert ended.record.reason is EndReason.TIMEOUT
    assert ended.index[-1].bytes == len(ended.output)


def test_a_storm_of_forks_is_stopped(node: Node, tmp_path: Path) -> None:
    limits = Limits(memory_bytes=256 * MIB, max_processes=100)
    storm = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.write(1, b'r')\n"
        "while True:\n"
        "  try:\n"
        "    if os.fork() == 0: os.setsid()\n"
        "  except OSError: pass\n"
    )
    with Job(node, tmp_path / "jbtest-storm", limits) as job:
        job.start(job.spec("python3", "-ISc", storm, grace_ms=50))
        prints(job, b"r")
        job.stop()
        assert job.end().record.reason is EndReason.STOPPED
        job.cgroup.remove()  # fails if a process is left


def test_a_storm_of_zombies(job: Job) -> None:
    storm = (
        "import os\n"
        "for i in range(150):\n"
        "  if os.fork() == 0:\n"
        "    for j in range(4):\n"
        "      if os.fork() == 0: os._exit(0)\n"
        "    os._exit(0)\n"
        "  os.wait()\n"
        "print('done')\n"
    )
    ended = job.run(job.spec("python3", "-ISc", storm))
    assert (ended.output, ended.record.exit_code) == (b"done\n", 0)


CHILD_HOG = """
import os, time
if os.fork() == 0:
  b = bytearray(200 << 20)
  os._exit(0)
os.wait()
time.sleep(60)  # init ends the job as soon as the kernel has told it, which is not at once
os.write(1, b'survived')
"""
COMMAND_HOG = """
import os, time
if os.fork() == 0:
  time.sleep(1000)
b = bytearray(200 << 20)
os.write(1, b'survived')
"""


@pytest.mark.parametrize(
    ("hog", "reason"), [(CHILD_HOG, EndReason.OOM_CHILD), (COMMAND_HOG, EndReason.OOM)], ids=["a child", "the command"]
)
def test_out_of_memory_ends_the_whole_job(node: Node, tmp_path: Path, hog: str, reason: EndReason) -> None:
    limits = Limits(memory_bytes=48 * MIB, max_processes=100)
    with Job(node, tmp_path / "jbtest-oom", limits) as job:
        ended = job.run(job.spec("python3", "-ISc", hog))
        assert ended.output == b""
        record = ended.record
        assert (record.exit_code, record.signal, record.reason) == (137, signal.SIGKILL, reason)


def test_killing_init_kills_everything(job: Job) -> None:
    job.start(job.spec("sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"))
    prints(job, b"ready")
    signal.pidfd_send_signal(job.pidfd, signal.SIGKILL)
    assert readable(job.pidfd, DEADLINE_SECONDS)
    job.cgroup.remove()  # fails if a process is left
    assert exitrecord.read(job.directory) is None


def test_the_record_is_complete_though_its_disk_is_full(node: Node, small_log: Path) -> None:
    with Job(node, small_log / "jbtest-state", unlimited()) as job:
        job.start(job.spec("sh", "-c", "read x < /dev/ptmx"), log=job.directory)
        with suppress(OSError), (small_log / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        job.stop()
        until(lambda: exitrecord.read(job.directory) is not None, "no record")
        (small_log / "filler").unlink()
        assert job.end().record.reason is EndReason.STOPPED


@pytest.mark.parametrize("size", [0, 1, exitrecord.SIZE, exitrecord.SIZE + 1, 10000])
def test_nothing_stays_of_the_record_of_an_earlier_job(job: Job, size: int) -> None:
    earlier = job.directory / exitrecord.TEMPORARY_NAME
    earlier.write_bytes(b"x" * size)
    job.spawn(job.spec("true").encode())
    job.init()
    job.parked()
    assert earlier.read_bytes() == bytes(exitrecord.SIZE)
    job.go()
    assert job.end().record.reason is EndReason.EXIT


def test_no_room_for_the_record_means_no_launch(node: Node, small_log: Path, tmp_path: Path) -> None:
    with Job(node, small_log / "jbtest-state", unlimited()) as job:
        with suppress(OSError), (small_log / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        log = tmp_path / "log"
        log.mkdir()
        with pytest.raises(Failed) as failed:
            job.start(job.spec("true"), log=log)
        assert (failed.value.told.stage, errno_of(failed.value)) == (Stage.RECORD, "ENOSPC")
        assert job.wait_end() == 125
