"""For tests of the drivers: processes in a job's cgroups, and what there is of directories."""

import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from joblet.executor.cgroup.driver import JobCgroup

DEADLINE_SECONDS = 120.0  # only ends a wait for what never comes
# Names what this run makes. Not by its process id alone: on one machine there may be a run in another pid namespace.
RUN = f"jbtest-{os.getpid()}-{secrets.token_hex(3)}"
PYTHON = (sys.executable, "-S", "-E", "-c")


def idle_seconds() -> float:
    """What the machine's cores have been idle since boot (proc_stat(5)): a lower bound is asked for only where the
    machine had that much to spare."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def directories_named(name: str) -> list[str]:
    return [f"{top}/{name}" for top, names, _ in os.walk("/sys/fs/cgroup") if name in names]


def join(job: JobCgroup) -> None:
    """What the command does before exec; runs in the child."""
    for fd in job.payload_fds:
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112 - pathlib would not add anything between fork and exec
            fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fd)
        os.write(fd, b"0")


def start(job: JobCgroup, processes: ExitStack, *argv: str | Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        argv, preexec_fn=partial(join, job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    processes.callback(end, process)
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=DEADLINE_SECONDS)


def output(job: JobCgroup, processes: ExitStack, *argv: str | Path) -> str:
    process = start(job, processes, *argv)
    text, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    return text


def await_line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{expected}\n"
