"""For tests: orders, records and outcomes with harmless values."""

from dataclasses import replace
from typing import Any

from joblet.common import contents
from joblet.common.states import JobState, Reason
from joblet.executor.cgroup.limits import Limits
from joblet.executor.job import InitProcess, Network, Order, Outcome, Record, Started, Usage
from joblet.executor.jobspec import Profile

JOB_ID = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
OTHER_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
LIMITS = Limits(cpu_percent=100, memory_bytes=64 << 20, max_processes=50)
ROOMY = contents.Limits(1 << 40, 1 << 40, 3600, ("", ""))
INIT = InitProcess(pid=4711, start_ticks=123456, boot_id="b0", command_pid=4712)
STARTED = Started(started_ns=20, not_isolated=("network: shared",), attested_ns=19, facts={"CapEff": "0" * 16})


def order(**changes: Any) -> Order:
    plain = Order(
        job_id=JOB_ID, command="true", args=(), limits=LIMITS, environment={}, secrets={}, network=Network.NONE,
        work_dir="/work", uploads=(), timeout_seconds=0, profile=Profile.DEFAULT, request_id="",
        shown_id=JOB_ID, attempt=0,
    )  # fmt: skip
    return replace(plain, **changes)


def record(**changes: Any) -> Record:
    plain = Record(
        job_id=JOB_ID, state=JobState.INITIALIZING, command="true", uid_base=0x7000_0000, memory_bytes=64 << 20,
        timeout_seconds=0, not_isolated=(), created_ns=10,
    )  # fmt: skip
    return replace(plain, **changes)


def outcome(**changes: Any) -> Outcome:
    plain = Outcome(
        state=JobState.COMPLETED, exit_code=0, signal=0, reason=Reason.EXIT, message="", started_ns=20, ended_ns=30,
        usage=Usage(cpu_user_seconds=0.5, peak_memory_bytes=1 << 20), output_bytes=7,
    )  # fmt: skip
    return replace(plain, **changes)
