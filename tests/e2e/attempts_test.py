"""What each attempt of a retried job left is there until the job is deleted: its outputs and its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_system import LocalSystem, wait_for
from service_settings import set_service

pytestmark = pytest.mark.root

# Leaves its number, and succeeds in its third attempt.
FLAKY = 'echo "$JOB_ATTEMPT" > number; head -c "${1:-0}" /dev/zero > rest; test "$JOB_ATTEMPT" -gt 2'


def attempts_of(system: LocalSystem, job_id: str) -> list[dict[str, Any]]:
    attempts = system.json("job", "status", job_id)["attempts"]
    assert isinstance(attempts, list)
    return attempts


def number_of(system: LocalSystem, job_id: str, *flags: str) -> str:
    """What the attempt wrote into its output `number`."""
    return system.output("job", "get", job_id, "number", "-o", "-", *flags).strip()


def traces(system: LocalSystem) -> list[str]:
    """Where nodes keep something of single jobs."""
    state = system.directory / "state"
    kept = [state / "executor/outputs", state / "executor/jobs", system.directory / "logs"]
    return sorted(str(path) for directory in kept if directory.exists() for path in directory.iterdir())


def test_outputs_of_every_attempt_survive_an_executor_and_go_with_the_job(
    own_joblet: LocalSystem, tmp_path: Path
) -> None:
    before = traces(own_joblet)
    job_id = own_joblet.run("--retries=3", "--retry-backoff=1s", "--output=number", "sh", "-c", FLAKY)
    wait_for("the first attempt's end", lambda: len(attempts_of(own_joblet, job_id)) > 1)
    own_joblet.kill("executor")
    own_joblet.output("job", "get", "--list", "--attempt=1", job_id)
    assert number_of(own_joblet, job_id, "--attempt=1") == "1", "before the end of the job"
    own_joblet.output("job", "wait", job_id)
    own_joblet.kill("executor")
    own_joblet.output("job", "get", "--list", job_id)
    assert [number_of(own_joblet, job_id, f"--attempt={number}") for number in (1, 2, 3)] == ["1", "2", "3"]
    assert number_of(own_joblet, job_id) == "3"

    own_joblet.output("job", "get", job_id, "--attempt=2", "-o", tmp_path / "second")
    assert (tmp_path / "second/number").read_text() == "2\n"
    listed = own_joblet.rnx("job", "get", "--list", job_id)
    assert listed.stderr.decode() == "Outputs of attempt 3; attempts that have outputs, too: 1, 2 (--attempt)\n"
    assert listed.stdout.decode().split()[-1] == "number"
    answer = own_joblet.json("job", "get", "--list", "--attempt=1", job_id)
    assert (answer["attempt"], [some["number"] for some in _list(answer["attempts"])]) == (1, [1, 2, 3])
    beyond = own_joblet.rnx("job", "get", "--attempt=4", job_id)
    assert f"job not found: {job_id}, attempt 4" in beyond.stderr.decode()

    own_joblet.output("job", "delete", job_id)
    wait_for("everything gone", lambda: traces(own_joblet) == before)


def _list(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def test_all_attempts_together_keep_what_one_job_may(own_joblet: LocalSystem) -> None:
    set_service(own_joblet, "executor", outputMaxMb=2)
    job_id = own_joblet.run("--retries=3", "--retry-backoff=1s", "--output=*", "sh", "-c", FLAKY, "sh", str(900 * 1024))
    own_joblet.output("job", "wait", job_id)
    answer = own_joblet.json("job", "get", "--list", job_id)
    assert [some["number"] for some in _list(answer["attempts"])] == [2, 3]
    message = "outputs removed of attempt 1: with those of later ones they are more than one job may keep"
    assert [attempt["message"] for attempt in attempts_of(own_joblet, job_id)] == ["", "", message]
    gone = own_joblet.rnx("job", "get", "--attempt=1", job_id)
    assert f"no outputs are kept of job {job_id}, attempt 1" in gone.stderr.decode()
    assert "outputs are kept of attempt 2, 3: rnx job get --attempt" in gone.stderr.decode()
