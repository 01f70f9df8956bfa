"""Why a job ended: every reason that status can name, brought about for real, and the usage that comes with each."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import leftovers
import pytest
import yaml
from limited import CALL_SECONDS, MIB, PYTHON, Ended, Limited, refused
from local_system import local_system, wait_for

from joblet.api import job_pb2

pytestmark = [pytest.mark.root, pytest.mark.slow]


def running(limited: Limited, *argv: str) -> str:
    """A job that runs."""
    job_id = limited.start(*argv)
    wait_for("RUNNING", lambda: limited.status(job_id).status == "RUNNING")
    return job_id


def check_usage(ended: Ended) -> None:
    """It ran, so it used something, and all of it is told."""
    usage = ended.job.usage
    assert usage.wallSeconds > 0
    assert usage.peakMemoryBytes > 0
    assert usage.voluntaryContextSwitches + usage.involuntaryContextSwitches > 0


@pytest.mark.parametrize(
    ("argv", "wanted", "how", "number"),
    [
        (("true",), {}, ("COMPLETED", 0, "exit"), 0),
        (("sh", "-c", "exit 7"), {}, ("FAILED", 7, "exit"), 0),
        (("sh", "-c", "kill -SEGV $$"), {}, ("FAILED", 139, "signal"), 11),
        (("sleep", "1000"), {"timeoutSeconds": 1}, ("STOPPED", -1, "timeout"), 0),
        (("python3", "-ISc", "bytearray(300 << 20)"), {"maxMemory": 64}, ("FAILED", 137, "oom"), 9),
    ],
    ids=["exit", "exit code", "signal", "timeout", "oom"],
)
def test_ends_by_itself(
    limited: Limited, argv: tuple[str, ...], wanted: dict[str, Any], how: tuple[str, int, str], number: int
) -> None:
    ended = limited.run(*argv, **wanted)
    assert (ended.how, ended.job.signal) == (how, number)
    check_usage(ended)


# Prints from memory and then straight from a file that is not in memory, which a disk gives at the job's rate. The
# kernel keeps the output pipe locked meanwhile. An orphan's end wakes init, who sees that there is something in the
# pipe and waits for the lock, uninterruptibly: at this rate for minutes.
PRINTS_FROM_DISK = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY)
os.fsync(file)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
mapped = mmap.mmap(file, 1 << 20, prot=mmap.PROT_READ)
mapped.madvise(mmap.MADV_RANDOM)
if os.fork() == 0:
    os.writev(1, [bytes(4096), mapped])
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.02)
        os._exit(0)
    os.wait()
"""
SLOW_BYTES_PER_SECOND = 4096


def init_waits() -> bool:
    """Whether an init is in uninterruptible sleep."""
    states = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            states.append((process / "stat").read_text().partition(" ")[2][:11])
    return "(jobinit) D" in states


@pytest.mark.parametrize("by", ["timeout", "stopped"])
def test_init_is_kept_from_ending_the_job(limited: Limited, by: str) -> None:
    seconds = 15 if by == "timeout" else 0  # after python has begun, also on a slow machine
    job_id = limited.start(
        *PYTHON, PRINTS_FROM_DISK, str(limited.disk), maxIOBPS=SLOW_BYTES_PER_SECOND, timeoutSeconds=seconds
    )
    wait_for("init waits for the pipe", init_waits)
    if by == "stopped":
        limited.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
    job = limited.wait(job_id)
    assert (job.status, job.exitCode, job.reason) == ("STOPPED", -1, by)
    assert job.usage.wallSeconds < MIB / SLOW_BYTES_PER_SECOND


def test_stopped(limited: Limited) -> None:
    job_id = running(limited, "sleep", "1000")
    limited.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
    ended = limited.end(job_id)
    assert ended.how == ("STOPPED", -1, "stopped")
    check_usage(ended)


@pytest.mark.parametrize(
    ("command", "code", "reason"), [("/no/such/file", 127, "not-found"), ("/etc/passwd", 126, "not-executable")]
)
def test_not_started(limited: Limited, command: str, code: int, reason: str) -> None:
    ended = limited.run(command)
    assert ended.how == ("FAILED", code, reason)
    assert ended.job.usage.wallSeconds == 0


def test_limit_not_applied(limited: Limited) -> None:
    """The core that is asked for has been taken from the executor's cgroup, or the kernel has no cpusets at all."""
    cores, parents = sorted(os.sched_getaffinity(0)), cpusets(limited)
    if parents and len(cores) == 1:
        return  # there is none that could be taken
    before = {path: path.read_text() for path in parents}
    try:
        for path in parents:
            path.write_text(str(cores[0]))
        code, text = refused(limited, cpuCores=str(cores[-1]), name="cores")
    finally:
        for path, cpus in before.items():
            path.write_text(cpus)
    assert code == "INTERNAL"
    assert text.startswith("job creation failed: limit cpuCores cannot be applied: ")
    listed = limited.stub.ListJobs(job_pb2.EmptyRequest(), timeout=CALL_SECONDS).jobs
    (job,) = (job for job in listed if job.name == "cores")
    assert (job.status, job.exitCode, job.reason, job.message) == ("FAILED", 125, "limit-not-applied", text)


def cpusets(limited: Limited) -> list[Path]:
    """cpuset.cpus of the cgroup that has the system's jobs; none where the kernel has no cpusets."""
    document = yaml.safe_load((limited.system.directory / "config/joblet-config.yml").read_text())
    name = document["executor"]["cgroupParent"]
    return [path for own in leftovers.own_cgroups() if (path := own / name / "cpuset.cpus").exists()]


def test_supervisor_killed(limited: Limited) -> None:
    job_id = running(limited, "sleep", "1000")
    os.kill(init_of(job_id), signal.SIGKILL)
    ended = limited.end(job_id)
    assert ended.how == ("FAILED", -1, "supervisor-killed")
    assert ended.job.message == "the process that supervised the job was killed; the job was killed with it"
    assert ended.job.usage.wallSeconds > 0
    assert ended.job.usage.peakMemoryBytes > 0


def init_of(job_id: str) -> int:
    """The host's pid of a job's init: the parent of the process that has the job's id in its environment."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"JOB_ID={job_id}".encode() in (process / "environ").read_bytes():
                return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # ended while we looked
    raise AssertionError(f"no process of job {job_id}")


def test_node_lost_and_found(clean_machine: None, tmp_path: Path) -> None:
    """An executor that stands still sends no heartbeats; when it goes on, it is found to have its jobs still. The lease
    is short: a busy machine may stop the executor at any other time, too."""
    config = tmp_path / "jbtest/config/joblet-config.yml"
    config.parent.mkdir(parents=True)
    config.write_text("gateway: {nodeLeaseSeconds: 3}\n")
    with local_system(tmp_path / "jbtest") as system:

        def now() -> tuple[object, ...]:
            status = system.json("job", "status", job_id)
            return status["status"], status["exitCode"], status["reason"]

        def stopped() -> bool:
            system.rnx("job", "stop", job_id)
            return now() == ("STOPPED", -1, "stopped")

        job_id = system.run("sleep", "1000")
        wait_for("RUNNING", lambda: now()[0] == "RUNNING")
        executor = system.pids()["executor"]
        os.kill(executor, signal.SIGSTOP)
        try:
            wait_for("node lost", lambda: now() == ("FAILED", -1, "node-lost"))
        finally:
            os.kill(executor, signal.SIGCONT)
        wait_for("RUNNING", lambda: now()[0] == "RUNNING")
        wait_for("STOPPED", stopped)
