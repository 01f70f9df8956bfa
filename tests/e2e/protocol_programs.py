"""Jobs whose end and output are known beforehand, and which ends are right after what was done to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from threading import Lock
from uuid import uuid4

from hypothesis import strategies as st

from joblet.api.job_pb2 import GetJobStatusRes, RunJobReq
from joblet.common.states import JobState, Reason

ENDLESS_SECONDS = 1000
_LINE = "a line of output that nobody may lose or see twice"


@dataclass(frozen=True, slots=True)
class Program:
    """A command and what it comes to when nobody interferes. `endless`: it ends only when it is stopped."""

    name: str
    command: str
    args: tuple[str, ...]
    output: bytes
    state: JobState
    exit_code: int
    reason: Reason
    endless: bool = False
    timeout_seconds: int = 0

    def __repr__(self) -> str:  # what Hypothesis prints in a falsifying example
        return self.name


def _loop(name: str, lines: int, exit_code: int, pause: str) -> Program:
    script = f'i=0; while [ $i -lt {lines} ]; do echo "$i {_LINE}"; i=$((i+1)); {pause}done; exit {exit_code}'
    output = b"".join(f"{number} {_LINE}\n".encode() for number in range(lines))
    state = JobState.FAILED if exit_code else JobState.COMPLETED
    return Program(f"{name}({lines}, {exit_code})", "sh", ("-c", script), output, state, exit_code, Reason.EXIT)


def quick(lines: int, exit_code: int) -> Program:
    """Prints as fast as a shell can, most of the time over within milliseconds."""
    return _loop("quick", lines, exit_code, "")


def slow(lines: int, exit_code: int) -> Program:
    """A line every 40 ms: alive while services come and go."""
    return _loop("slow", lines, exit_code, "sleep 0.04; ")


def bulk(last: int) -> Program:
    """Hundreds of kilobytes in one go."""
    output = b"".join(b"%d\n" % number for number in range(1, last + 1))
    return Program(f"bulk({last})", "seq", (str(last),), output, JobState.COMPLETED, 0, Reason.EXIT)


MISSING = Program("MISSING", "jbtest-no-such-command", (), b"", JobState.FAILED, 127, Reason.NOT_FOUND)
KILLED = Program("KILLED", "sh", ("-c", "echo last words; kill -9 $$"), b"last words\n",
                 JobState.FAILED, 137, Reason.SIGNAL)  # fmt: skip
OVERTIME = Program("OVERTIME", "sh", ("-c", f"echo begun; exec sleep {ENDLESS_SECONDS}"), b"begun\n",
                   JobState.STOPPED, -1, Reason.TIMEOUT, timeout_seconds=5)  # fmt: skip
STUBBORN = Program(
    "STUBBORN", "sh", ("-c", f"trap '' TERM; echo no; setsid sleep {ENDLESS_SECONDS} & sleep {ENDLESS_SECONDS}"),
    b"no\n", JobState.STOPPED, -1, Reason.STOPPED, endless=True,
)  # fmt: skip

CODES = st.sampled_from([0, 1, 3, 125, 126, 127, 255])
PROGRAMS = st.one_of(
    st.builds(quick, st.integers(0, 30), CODES),
    st.builds(slow, st.integers(5, 60), CODES),
    st.builds(bulk, st.integers(1, 60_000)),
    st.sampled_from([MISSING, KILLED, OVERTIME, STUBBORN]),
)


@dataclass(slots=True, eq=False)
class Job:
    """A job as the test knows it. `endangered`: an executor was killed before the job was seen running."""

    program: Program
    request_id: str = field(default_factory=lambda: f"jbtest-{uuid4()}")
    id: str = ""
    stop_asked: bool = False
    stop_answer: JobState | None = None
    endangered: bool = False
    read: bytes = b""
    lock: Lock = field(default_factory=Lock)

    def __repr__(self) -> str:
        return f"{self.program} {self.id}"

    def request(self) -> RunJobReq:
        """What is sent; the same every time."""
        program = self.program
        return RunJobReq(
            command=program.command, args=program.args, requestId=self.request_id, maxMemory=64,
            timeoutSeconds=program.timeout_seconds,
        )  # fmt: skip

    def is_called(self, job_id: str) -> None:
        """One request id is one job, however often and by however many it is sent."""
        with self.lock:
            assert self.id in ("", job_id), f"{self.request_id} became two jobs: {self.id} and {job_id}"
            self.id = job_id

    def stop_refused(self, text: str) -> None:
        """StopJob said that the job had ended itself; how, must be true."""
        found = re.fullmatch(r"job is not running: (\S+) \(current status: (\w+)\)", text)
        assert found is not None, text
        assert found[1] == self.id
        self.stop_answer = JobState(found[2])

    def check_output_so_far(self, output: bytes) -> None:
        """What was read of a running job."""
        assert output.startswith(self.read), f"{self}: output that was there before has changed"
        assert self.program.output.startswith(output), f"{self}: wrong output {output[-200:]!r}"
        self.read = output

    def check_end(self, status: GetJobStatusRes, output: bytes) -> None:
        """One of the ends that are right, and the output that belongs to it, byte for byte."""
        end = (status.status, status.exitCode, status.reason)
        told = f"{self}: {end} {status.message!r}, {len(output)} bytes"
        assert status.uuid == self.id
        assert self.stop_answer in (None, status.status), f"{told}: StopJob said {self.stop_answer}"
        self.check_output_so_far(output)
        program = self.program
        if end == (program.state, program.exit_code, program.reason) and not program.endless:
            assert output == program.output, told
        elif end == (JobState.STOPPED, -1, Reason.STOPPED):
            assert self.stop_asked, told
        else:
            # Its launch was cut off by kill -9 and its command never ran: the only other end there may be.
            assert self.endangered, told
            assert (status.status, output) == (JobState.FAILED, b""), told
            assert status.reason in (Reason.NODE_LOST, Reason.LAUNCH), told
