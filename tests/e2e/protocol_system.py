"""A local system under attack: its services killed and awaited by their pid files, its API called until it answers."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml
from local_system import LocalSystem, give_a_long_lease, local_system, wait_for
from protocol_observer import Observer
from protocol_programs import Job

from joblet.api.job_pb2 import GetJobLogsReq, GetJobStatusReq, GetJobStatusRes, StopJobReq, WaitJobReq
from joblet.api.job_pb2_grpc import JobServiceStub
from joblet.common.states import TERMINAL, JobState

ATTACKED = ("gateway", "executor", "logstore")
PATIENCE_SECONDS = 240.0
CALL_SECONDS = 120.0
RETRY_SECONDS = 0.05
# The supervisor's pause before a service is started again grows with each of its deaths: 0.05, 0.2, 0.8, 3.2 s.
MOST_DEATHS = 4
STUMBLE_LINES = 60
# gRPC cancels a call that reaches a server at the very moment at which it stops taking calls.
NOT_ANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
T = TypeVar("T")
# A client that comes back at once: gRPC's own pauses of up to two minutes would be most of the test.
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Target:
    """One running system with its observer; `deaths` counts how often each service was killed or ended."""

    def __init__(self, system: LocalSystem) -> None:
        self.system = system
        self.deaths: Counter[str] = Counter()
        self.jobs: list[Job] = []
        self.followers: list[Follower] = []
        certificates = system.certificates
        names = ("ca-cert.pem", "admin-client-key.pem", "admin-client-cert.pem")
        credentials = grpc.ssl_channel_credentials(*((certificates / name).read_bytes() for name in names))
        self.channel = grpc.secure_channel(system.address, credentials, options=OPTIONS)
        self.stub = JobServiceStub(self.channel)
        self.observer = Observer(system.directory, self.stub)

    @cached_property
    def _ready_ports(self) -> dict[str, int]:
        document = yaml.safe_load((self.system.directory / "config/joblet-config.yml").read_text())
        return {name: int(document[name]["metricsListen"].rpartition(":")[2]) for name in ATTACKED}

    def mortal(self) -> list[str]:
        """Services that may be killed once more without a long pause."""
        return [name for name in ATTACKED if self.deaths[name] < MOST_DEATHS]

    def end_service(self, name: str, number: signal.Signals) -> None:
        """A signal to the service, up or still starting; waits only until it is gone."""
        pid, ticks = wait_for(f"{name} runs", lambda: self._process(name))
        if name == "executor" and number == signal.SIGKILL:
            for job in self.jobs:
                job.endangered |= not self.observer.seen_running(job.id)
        self.deaths[name] += 1
        descriptor = os.pidfd_open(pid)
        try:
            if _start_ticks(pid) == ticks:  # the descriptor is that of the process meant
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
        wait_for(f"{name} is gone", lambda: _start_ticks(pid) != ticks)

    def settle(self) -> None:
        """Until the supervisor has every service up and ready again."""
        for name in ATTACKED:
            wait_for(f"{name} is ready", lambda name=name: self._process(name) and self._is_ready(name))  # type: ignore[misc]

    def _process(self, name: str) -> tuple[int, str] | None:
        """Pid and start time of a service that runs."""
        try:
            pid, ticks, *_ = (self.system.directory / f"run/{name}.pid").read_text().split()
        except (FileNotFoundError, ValueError):  # about to be written
            return None
        return (int(pid), ticks) if _start_ticks(int(pid)) == ticks else None

    def _is_ready(self, name: str) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._ready_ports[name]), timeout=2) as connection:
                connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def call(self, method: Callable[..., T], request: Any) -> T:
        """As a client does: the same call again while nobody answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return method(request, timeout=CALL_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() not in NOT_ANSWERED or time.monotonic() > deadline:
                    raise
            time.sleep(RETRY_SECONDS)  # between two attempts

    def submit(self, job: Job) -> None:
        """RunJob until it is answered; every answer must be the same job."""
        answer = self.call(self.stub.RunJob, job.request()).job
        job.is_called(answer.uuid)
        if answer.status in TERMINAL:
            self.status(job)

    def stop(self, job: Job) -> None:
        """StopJob until it is answered."""
        asked_before, job.stop_asked = job.stop_asked, True
        attempts = 0

        def attempt(request: StopJobReq, **how: Any) -> GetJobStatusRes:
            nonlocal attempts
            attempts += 1
            return self.stub.StopJob(request, **how).job

        try:
            answer = self.call(attempt, StopJobReq(uuid=job.id))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, f"StopJob {job}: {error}"
            job.stop_refused(error.details() or "")
            by_us = asked_before or attempts > 1 or job.program.state is JobState.STOPPED
            assert job.stop_answer is not JobState.STOPPED or by_us, f"{job}: StopJob did not say that it stopped it"
            return
        assert (answer.status, answer.exitCode) == (JobState.STOPPED, -1), f"StopJob {job}: {answer}"
        job.stop_answer = JobState.STOPPED

    def status(self, job: Job) -> GetJobStatusRes:
        """GetJobStatus, which must know what StopJob said."""
        answer = self.call(self.stub.GetJobStatus, GetJobStatusReq(uuid=job.id))
        assert job.stop_answer in (None, answer.status), f"{job}: {answer.status} after StopJob said {job.stop_answer}"
        return answer

    def wait(self, job: Job) -> GetJobStatusRes:
        """The end of a job."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            answer = self.call(self.stub.WaitJob, WaitJobReq(uuid=job.id, timeoutSeconds=10)).job
            if answer.status in TERMINAL:
                return answer
        raise AssertionError(f"{job} does not end: {answer.status} {answer.message}")

    def read(self, job: Job, *, follow: bool) -> bytes:
        """The output of a job: what is there now or all of it."""
        follower = Follower(self, job, follow=follow)
        follower.run()
        assert not follower.problem, follower.problem
        return bytes(follower.output)

    def follow(self, job: Job) -> None:
        """Reads along in the background, to the end."""
        follower = Follower(self, job, follow=True)
        self.followers.append(follower)
        follower.thread.start()

    def check(self) -> None:
        """What must be true at every moment."""
        problems = self.observer.problems + [follower.problem for follower in self.followers if follower.problem]
        assert not problems, "\n".join(problems)

    def finish(self) -> None:
        """Every job to its end; then each of them, and the count of events, must be right."""
        self.settle()
        for job in self.jobs:
            if job.program.endless and not job.stop_asked:
                self.stop(job)
        for job in self.jobs:
            job.check_end(self.wait(job), self.read(job, follow=True))
        for follower in self.followers:
            follower.thread.join(PATIENCE_SECONDS)
            assert not follower.thread.is_alive(), f"a follower of {follower.job} does not come to an end"
            assert follower.problem or follower.job.read == follower.output, f"{follower.job}: another output followed"
        self.check()
        self.observer.check_events()
        self.jobs.clear()
        self.followers.clear()

    def close(self) -> None:
        """Ends what runs here, not the system."""
        self.observer.close()
        self.channel.close()
        for follower in self.followers:
            follower.thread.join(PATIENCE_SECONDS)


class Follower:
    """GetJobLogs as a client does that goes on by offset when the gateway goes away."""

    def __init__(self, target: Target, job: Job, *, follow: bool) -> None:
        self.job = job
        self.output = bytearray()
        self.problem = ""
        self.thread = threading.Thread(target=self.run, name=f"follower of {job.id}", daemon=True)
        self._target = target
        self._follow = follow

    def run(self) -> None:
        """To the end; `problem` says what was wrong."""
        try:
            self._target.call(self._read, None)
            if self._follow:
                status = self._target.status(self.job).status
                assert status in TERMINAL, f"its log had ended when it was {status}"
        except (AssertionError, grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed
            self.problem = f"follower of {self.job} at {len(self.output)}: {error}"

    def _read(self, _: None, *, wait_for_ready: bool, timeout: float) -> None:
        request = GetJobLogsReq(uuid=self.job.id, offset=len(self.output), noFollow=not self._follow)
        for chunk in self._target.stub.GetJobLogs(request, wait_for_ready=wait_for_ready, timeout=4 * timeout):
            assert chunk.offset == len(self.output), f"a chunk for offset {chunk.offset}"
            self.output += chunk.payload


@contextmanager
def target(directory: Path) -> Iterator[Target]:
    """A system of its own; on the way out nothing of it may be left and its services may not have stumbled."""
    give_a_long_lease(directory)
    with local_system(directory) as system:
        running = Target(system)
        try:
            yield running
        finally:
            running.close()
    left, stumbled = _left_of(directory), _stumbles(directory)
    assert not left, f"left behind: {left}"
    assert not stumbled, "\n".join(stumbled)


def _left_of(directory: Path) -> list[str]:
    """Processes, cgroups and mounts of the system in `directory`."""
    config = yaml.safe_load((directory / "config/joblet-config.yml").read_text())
    marks = (str(directory), config["executor"]["cgroupParent"])
    left = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if marks[1] in folder]
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if marks[0] in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = "".join((process / name).read_text(errors="replace") for name in ("cmdline", "cgroup"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if any(mark in told for mark in marks):
            left.append(f"{process}: {told}")
    return left


def _stumbles(directory: Path) -> list[str]:
    """What the services logged that stands for a fault of ours, whatever was killed; with what follows it."""
    found = []
    for path in sorted((directory / "logs").glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            # grpc.aio logs the cancellation of a stream that was open when its server ended; nothing of ours is in it.
            if lines[number + 2 : number + 3] == ["asyncio.exceptions.CancelledError"]:
                continue
            if "Traceback (most recent call last)" in line or "a job cannot change from" in line:
                found.append("\n".join([f"{path.name}:", *lines[max(0, number - 2) : number + STUMBLE_LINES]]))
    return found


def _start_ticks(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat (proc(5)), None for a process that has ended, also as a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]
