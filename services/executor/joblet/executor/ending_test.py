from dataclasses import replace
from errno import EACCES, ENOENT, ENOEXEC, ENOSPC, EPERM
from typing import Any

import pytest

from joblet.common.states import JobState, Reason
from joblet.executor.cgroup.driver import CgroupUsage
from joblet.executor.ending import Evidence, Failure, launch_failure, outcome_of
from joblet.executor.exitrecord import EndReason, ExitRecord, RecordFlag
from joblet.executor.job import Outcome
from joblet.executor.jobspec import Stage

RECORD = ExitRecord(
    exit_code=0, signal=0, reason=EndReason.EXIT, stage=Stage.NONE, error=0, flags=RecordFlag.STARTED,
    start_ns=1_000_000_000, end_ns=3_000_000_000, user_us=500_000, system_us=250_000, maxrss_bytes=4096, oom_kills=0,
    voluntary_switches=3, involuntary_switches=4, detail="",
)  # fmt: skip


def ended(record: ExitRecord | None = RECORD, **known: Any) -> Outcome:
    plain = Evidence(
        command="tool", memory_bytes=64 << 20, timeout_seconds=5, started_ns=2_000_000_000, now_ns=9_000_000_000,
        record=record, refused=None, heard=None, stop_requested=False, overdue=False, cgroup=None,
        output_bytes=11,
    )  # fmt: skip
    return outcome_of(replace(plain, **known))


def recorded(reason: EndReason, **fields: Any) -> ExitRecord:
    return replace(RECORD, reason=reason, **fields)


@pytest.mark.parametrize(
    ("record", "state", "reason", "exit_code", "signal"),
    [
        (RECORD, JobState.COMPLETED, Reason.EXIT, 0, 0),
        (recorded(EndReason.EXIT, exit_code=7), JobState.FAILED, Reason.EXIT, 7, 0),
        (recorded(EndReason.SIGNAL, exit_code=139, signal=11), JobState.FAILED, Reason.SIGNAL, 139, 11),
        (recorded(EndReason.OOM, exit_code=137, signal=9), JobState.FAILED, Reason.OOM, 137, 9),
        (recorded(EndReason.OOM_CHILD, exit_code=137, signal=9), JobState.FAILED, Reason.OOM_CHILD, 137, 9),
        (recorded(EndReason.OOM_CHILD, exit_code=1), JobState.FAILED, Reason.OOM_CHILD, 1, 0),
        (recorded(EndReason.TIMEOUT, exit_code=-1, signal=15), JobState.STOPPED, Reason.TIMEOUT, -1, 0),
        (recorded(EndReason.STOPPED, exit_code=-1, signal=9), JobState.STOPPED, Reason.STOPPED, -1, 0),
        (None, JobState.FAILED, Reason.SUPERVISOR_KILLED, -1, 0),
    ],
)
def test_ends(record: ExitRecord | None, state: JobState, reason: Reason, exit_code: int, signal: int) -> None:
    outcome = ended(record)
    assert (outcome.state, outcome.reason, outcome.exit_code, outcome.signal) == (state, reason, exit_code, signal)
    assert outcome.output_bytes == 11


def test_a_job_that_ended_before_the_stop_keeps_its_own_end() -> None:
    outcome = ended(recorded(EndReason.EXIT, exit_code=3), stop_requested=True)
    assert (outcome.state, outcome.exit_code) == (JobState.FAILED, 3)


def test_killed_by_the_executor_at_its_timeout() -> None:
    killed = recorded(EndReason.SIGNAL, exit_code=137, signal=9)
    outcome = ended(killed, overdue=True)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (JobState.STOPPED, Reason.TIMEOUT, -1)
    assert outcome.message == "ran longer than its timeout of 5 s"
    assert ended(RECORD, overdue=True).state is JobState.COMPLETED, "it had ended by itself before"


def test_init_killed_by_the_stop_is_a_stop() -> None:
    outcome = ended(None, stop_requested=True)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (JobState.STOPPED, Reason.STOPPED, -1)


def test_a_stop_before_the_command_ran() -> None:
    record = recorded(EndReason.LAUNCH_FAILED, stage=Stage.PARK, flags=RecordFlag(0))
    outcome = ended(record, stop_requested=True, started_ns=0)
    assert (outcome.state, outcome.started_ns) == (JobState.STOPPED, 0)


@pytest.mark.parametrize(
    ("stage", "error", "reason", "exit_code", "message"),
    [
        (Stage.RESOLVE, ENOENT, Reason.NOT_FOUND, 127, "command not found: tool"),
        (Stage.EXEC, ENOENT, Reason.NOT_FOUND, 127, "interpreter of the command not found: tool"),
        (Stage.RESOLVE, EACCES, Reason.NOT_EXECUTABLE, 126,
         "command cannot be executed: tool: permission denied"),
        (Stage.EXEC, ENOEXEC, Reason.NOT_EXECUTABLE, 126, "command cannot be executed: tool: exec format error"),
        (Stage.CLONE, EPERM, Reason.ISOLATION, 125,
         "failed to create isolated environment: operation not permitted (cannot create namespaces)"),
        (Stage.UPLOAD, ENOSPC, Reason.LAUNCH, 125, "cannot write uploads: no space left on device"),
        (Stage.CGROUP, EPERM, Reason.LIMIT_NOT_APPLIED, 125,
         "limits cannot be applied: cannot join the job's cgroup: operation not permitted"),
        (Stage.RECORD, ENOSPC, Reason.LAUNCH, 125,
         "job could not be started: cannot prepare the exit record: no space left on device"),
    ],
)  # fmt: skip
def test_launches_that_failed(stage: Stage, error: int, reason: Reason, exit_code: int, message: str) -> None:
    failure = launch_failure("tool", stage, error, "")
    assert failure == Failure(reason, message, exit_code)
    record = recorded(EndReason.LAUNCH_FAILED, stage=stage, error=error)
    outcome = ended(record, started_ns=0)
    assert (outcome.state, outcome.reason, outcome.exit_code) == (JobState.FAILED, reason, exit_code)
    assert (outcome.message, outcome.started_ns, outcome.usage.wall_seconds) == (message, 0, 0)


def test_every_stage_has_a_failure() -> None:
    for stage in Stage:
        assert launch_failure("tool", stage, EPERM, "the detail").message


def test_the_executors_own_refusal_counts_more_than_what_init_made_of_it() -> None:
    refused = Failure(Reason.ISOLATION, "isolation could not be verified: Seccomp is 0, not 2")
    outcome = ended(recorded(EndReason.LAUNCH_FAILED, stage=Stage.PARK), refused=refused, started_ns=0)
    assert (outcome.reason, outcome.exit_code, outcome.message) == (Reason.ISOLATION, 125, refused.message)


def test_killed_before_it_ran_is_no_start() -> None:
    outcome = ended(recorded(EndReason.SIGNAL, signal=9, flags=RecordFlag(0)), started_ns=0)
    assert (outcome.reason, outcome.exit_code, outcome.started_ns) == (Reason.LAUNCH, 125, 0)


def test_times_the_executors_sight_of_the_start_and_inits_of_the_end() -> None:
    outcome = ended()
    assert (outcome.started_ns, outcome.ended_ns, outcome.usage.wall_seconds) == (2_000_000_000, 3_000_000_000, 1.0)
    assert ended(started_ns=0).started_ns == RECORD.start_ns
    assert ended(None).ended_ns == 9_000_000_000


def test_usage_from_the_cgroup_where_it_knows_more() -> None:
    counters = CgroupUsage(
        cpu_user_seconds=1.5, cpu_system_seconds=0.5, peak_memory_bytes=1 << 20, io_read_bytes=3, io_write_bytes=4,
        oom_kills=1,
    )  # fmt: skip
    usage = ended(cgroup=counters).usage
    assert (usage.cpu_user_seconds, usage.peak_memory_bytes, usage.io_write_bytes) == (1.5, 1 << 20, 4)
    assert (usage.voluntary_context_switches, usage.oom_kills) == (3, 1)
    without_peak = ended(cgroup=replace(counters, peak_memory_bytes=None)).usage
    assert without_peak.peak_memory_bytes == RECORD.maxrss_bytes
    assert ended().usage.cpu_user_seconds == 0.5
    assert ended(recorded(EndReason.OOM)).usage.oom_kills == 1
