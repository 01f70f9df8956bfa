"""Schedules, retries and timeouts on a whole system whose services are killed: each job starts when it should, as often
as it should, and ends when it should."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from local_system import UP_SECONDS, LocalSystem, files_below, local_system, run_rnx, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

# Fails in its first two attempts; says which one it is.
FLAKY = 'echo "attempt $JOB_ATTEMPT of $JOB_ID"; test "$JOB_ATTEMPT" -gt 2'
SLEEP = "sleep 1001"  # no other test's


def status(system: LocalSystem, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(system.output("--json", "job", "status", job_id))
    return answer


def has(system: LocalSystem, job_id: str, state: str) -> bool:
    return bool(status(system, job_id)["status"] == state)


def running(system: LocalSystem, job_id: str) -> dict[str, Any] | None:
    """What a job says of itself while it runs."""
    now = status(system, job_id)
    return now if now["status"] == "RUNNING" else None


def enough_seconds(system: LocalSystem) -> int:
    """For a job to be submitted and looked at: ten, and many more on a busy machine."""
    begun = time.monotonic()
    status(system, system.run("true"))
    return max(10, math.ceil(5 * (time.monotonic() - begun)))


def test_a_scheduled_job_outlives_its_gateway(own_joblet: LocalSystem) -> None:
    """Killed between submission and the due time."""
    canceled = own_joblet.run("--schedule=1h", "true")
    assert "Status: CANCELED" in own_joblet.output("job", "cancel", canceled)
    schedule = f"--schedule={enough_seconds(own_joblet)}s"
    job_id = own_joblet.run(schedule, "-s", "CANARY=canary-60c1", "sh", "-c", "echo $CANARY | wc -c")
    assert has(own_joblet, job_id, "SCHEDULED")
    own_joblet.kill("gateway")
    wait_for("its time", lambda: has(own_joblet, job_id, "COMPLETED"))
    over = status(own_joblet, job_id)
    assert over["startTime"] >= over["scheduledTime"]
    assert own_joblet.log(job_id) == b"12\n"
    assert has(own_joblet, canceled, "CANCELED")
    assert _files_with(own_joblet.directory, b"canary-60c1") == []


def _files_with(directory: Path, text: bytes) -> list[Path]:
    return [path for path, content in files_below(directory) if text in content]


def test_a_flaky_job_whose_gateway_is_killed_in_between(own_joblet: LocalSystem) -> None:
    job_id = own_joblet.run("--retries=3", "--retry-backoff=1s", "sh", "-c", FLAKY)
    wait_for("the first attempt's end", lambda: status(own_joblet, job_id)["attempt"] > 1)
    own_joblet.kill("gateway")
    wait_for("success", lambda: has(own_joblet, job_id, "COMPLETED"))
    over = status(own_joblet, job_id)
    assert [(one["number"], one["status"], one["exitCode"]) for one in over["attempts"]] == [
        (1, "FAILED", 1), (2, "FAILED", 1), (3, "COMPLETED", 0),
    ]  # fmt: skip
    lines = [f"attempt {number} of {job_id}\n".encode() for number in (1, 2, 3)]
    assert own_joblet.log(job_id) == b"".join(lines)
    for number, line in enumerate(lines, start=1):
        assert own_joblet.rnx("job", "log", f"--attempt={number}", job_id).stdout == line


def test_a_flaky_job_is_followed_through_its_attempts(joblet: LocalSystem) -> None:
    followed = joblet.rnx("run", "--follow", "--retries=3", "--retry-backoff=1s", "sh", "-c", FLAKY)
    assert followed.returncode == 0
    assert [line.split()[1] for line in followed.stdout.splitlines()] == [b"1", b"2", b"3"]
    failed = joblet.rnx("run", "--follow", "--retries=3", "--no-retry-on=7", "sh", "-c", "exit 7")
    assert failed.returncode == 7
    assert "attempt" not in failed.stderr.decode()


def test_a_timeout_needs_no_daemon(clean_machine: None, tmp_path: Path) -> None:
    directory = tmp_path / "jbtest"
    with local_system(directory) as system:
        supervisor = int((directory / "run/supervisor.pid").read_text().split()[0])
        daemons = (supervisor, *system.pids().values())
        seconds = enough_seconds(system)
        job_id = system.run(f"--timeout={seconds}s", "sh", "-c", f"trap '' TERM; setsid {SLEEP} & {SLEEP}")
        now = wait_for("RUNNING", lambda: running(system, job_id))
        assert 1 <= now["remainingSeconds"] <= seconds
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)
        wait_for("the end of its processes", lambda: not _sleepers())
        up = run_rnx(
            "local", "up", "--dir", directory, "--port", str(system.port), "--detach", timeout_seconds=UP_SECONDS
        )
        assert up.returncode == 0, up.stderr.decode()
        wait_for("STOPPED", lambda: has(system, job_id, "STOPPED"))
        over = status(system, job_id)
        assert (over["reason"], over["exitCode"], over["remainingSeconds"]) == ("timeout", -1, 0)
        print(f"\nstopped {(over['usage']['wallSeconds'] - seconds) * 1000:.0f} ms after its {seconds} s were over")


def _sleepers() -> list[str]:
    """Command lines of the job's processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        if line == SLEEP:
            found.append(line)
    return found
