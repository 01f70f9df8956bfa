"""For the tests of limits: a system with small directories and a disk its jobs can read, and jobs run to their end.

The disk is a directory of the test's own, bound below /usr, which every job sees read-only; so its device is one that
the jobs' files live on, whatever the machine's own /usr is on.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import yaml
from local_system import LocalSystem, local_system
from vitals import channel

from joblet.api import job_pb2, job_pb2_grpc

CALL_SECONDS = 120.0
MIB = 1 << 20
PYTHON = ("python3", "-ISc")
DISK_FILE_BYTES = 24 * MIB
TMP_MB, WORK_MB = 8, 16
LEASE_SECONDS = 600  # a busy machine may keep the executor from telling that it is there for many of them


@dataclass(frozen=True, slots=True)
class Ended:
    """A job at its end, with all of its output."""

    job: job_pb2.GetJobStatusRes
    output: str

    @property
    def cpu_seconds(self) -> float:
        usage = self.job.usage
        return usage.cpuUserSeconds + usage.cpuSystemSeconds

    @property
    def how(self) -> tuple[str, int, str]:
        return self.job.status, self.job.exitCode, self.job.reason


@dataclass(frozen=True, slots=True)
class Limited:
    """A running system, asked through its public port. `disk` is a file on a disk that jobs can read."""

    system: LocalSystem
    disk: Path
    stub: job_pb2_grpc.JobServiceStub

    def start(self, command: str, *args: str, **wanted: Any) -> str:
        """Submit a job, without network unless told otherwise; its id."""
        request = job_pb2.RunJobReq(command=command, args=args, **({"network": "none"} | wanted))
        return self.stub.RunJob(request, timeout=CALL_SECONDS).job.uuid

    def status(self, job_id: str) -> job_pb2.GetJobStatusRes:
        return self.stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=CALL_SECONDS)

    def wait(self, job_id: str) -> job_pb2.GetJobStatusRes:
        """The job at its end."""
        return self.stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id), timeout=CALL_SECONDS).job

    def end(self, job_id: str) -> Ended:
        job = self.wait(job_id)
        chunks = self.stub.GetJobLogs(job_pb2.GetJobLogsReq(uuid=job_id), timeout=CALL_SECONDS)
        return Ended(job, b"".join(chunk.payload for chunk in chunks).decode())

    def run(self, command: str, *args: str, **wanted: Any) -> Ended:
        return self.end(self.start(command, *args, **wanted))

    def python(self, program: str, *args: str, **wanted: Any) -> Ended:
        return self.run(*PYTHON, program, *args, **wanted)


@contextmanager
def limited_system(directory: Path) -> Iterator[Limited]:
    """Taken down again whatever happens, with everything that was made for it."""
    with ExitStack() as stack:
        disk = _bind_disk(directory / "disk", stack)
        home = directory / "jbtest"
        _configure(home / "config/joblet-config.yml")
        system = stack.enter_context(local_system(home))
        opened = stack.enter_context(channel(system))
        yield Limited(system, disk, job_pb2_grpc.JobServiceStub(opened))


def refused(limited: Limited, **wanted: Any) -> tuple[str, str]:
    """gRPC code and text of the refusal of a job."""
    try:
        limited.start("true", **wanted)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def _bind_disk(directory: Path, stack: ExitStack) -> Path:
    directory.mkdir(parents=True)
    with (directory / "data").open("wb") as data:
        data.write(b"x" * DISK_FILE_BYTES)
        data.flush()
        os.fsync(data.fileno())  # or else the first to read past the page cache writes it, too
    place = stack.enter_context(TemporaryDirectory(prefix="jbtest-disk-", dir="/usr/local"))
    subprocess.run(["mount", "--bind", directory, place], check=True)
    stack.callback(subprocess.run, ["umount", place], check=True)
    return Path(place, "data")


def _configure(path: Path) -> None:
    """What is there before the first start is kept."""
    path.parent.mkdir(parents=True)
    executor = {"tmpSizeMb": TMP_MB, "workSizeMb": WORK_MB}
    path.write_text(yaml.safe_dump({"executor": executor, "gateway": {"nodeLeaseSeconds": LEASE_SECONDS}}))
