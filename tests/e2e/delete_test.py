"""`rnx job delete` and `delete-all`: every trace of a job goes, here and on its node; running ones are refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from local_system import LocalSystem, files_below, wait_for

pytestmark = pytest.mark.root


def ended(joblet: LocalSystem, *arguments: str) -> str:
    """The id of a job that has ended."""
    job_id = joblet.run(*arguments)
    joblet.rnx("job", "wait", job_id)
    return job_id


def traces(joblet: LocalSystem, job_id: str) -> list[str]:
    """Where the system still names the job: paths, and contents of files. The services' own logs may tell of it: they
    are the operator's record of what was asked and done."""
    wanted = job_id.encode()
    logs = joblet.directory / "logs"
    walk = os.walk(joblet.directory)
    named = [Path(folder, name) for folder, folders, files in walk for name in (*folders, *files) if job_id in name]
    told = [path for path, content in files_below(joblet.directory) if wanted in content]
    return [str(path) for path in named + told if not (path.is_relative_to(logs) and path.suffix == ".log")]


def cgroups_of(job_id: str) -> list[str]:
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if job_id in path]


def test_every_trace_goes(own_joblet: LocalSystem) -> None:
    script = "echo output; echo result >kept; exit 3"
    job_id = ended(own_joblet, "--name=gone", "-e", "A=b", "--output=kept", "sh", "-c", script)
    assert own_joblet.log(job_id) == b"output\n"
    assert own_joblet.output("job", "get", job_id, "kept", "-o", "-") == "result\n"
    assert traces(own_joblet, job_id) != []
    assert own_joblet.output("job", "delete", job_id[:8]) == f"Job deleted successfully:\nID: {job_id}\n"
    for verb in ("status", "log", "stop", "get", "delete"):
        refused = own_joblet.rnx("job", verb, job_id)
        assert (refused.returncode, refused.stderr.decode()) == (4, f"Error: job not found: {job_id}\n")
    assert job_id not in own_joblet.output("job", "list")
    wait_for("no trace left", lambda: not traces(own_joblet, job_id))
    wait_for("no cgroup left", lambda: not cgroups_of(job_id))


def test_running_jobs_are_refused_and_skipped(own_joblet: LocalSystem) -> None:
    running = own_joblet.run("sleep", "600")
    wait_for("RUNNING", lambda: own_joblet.status(running)["Status"] == "RUNNING")
    over = [ended(own_joblet, "true") for _ in range(3)]
    refused = own_joblet.rnx("job", "delete", over[0], running, over[1])
    assert refused.returncode == 1
    assert f"job has not ended: {running} (current status: RUNNING)" in refused.stderr.decode()
    assert own_joblet.status(running)["Status"] == "RUNNING"
    assert own_joblet.output("job", "delete-all") == "Deleted: 1\nSkipped: 1 (not ended)\n"
    assert [line.split()[0] for line in own_joblet.output("job", "list").splitlines()] == [running]
    own_joblet.output("job", "stop", running)
    assert own_joblet.json("job", "delete-all") == {"deleted": 1, "skipped": 0}
    wait_for("no trace left", lambda: not any(traces(own_joblet, job_id) for job_id in [*over, running]))


def test_a_node_that_is_away_deletes_when_it_is_back(own_joblet: LocalSystem) -> None:
    job_id = ended(own_joblet, "echo", "output")
    logstore = own_joblet.pids()["logstore"]
    os.kill(logstore, signal.SIGSTOP)
    try:
        own_joblet.output("job", "delete", job_id)
        assert own_joblet.rnx("job", "log", job_id).returncode == 4
        own_joblet.kill("gateway")
        assert own_joblet.rnx("job", "status", job_id).returncode == 4
        assert traces(own_joblet, job_id) != []
    finally:
        os.kill(logstore, signal.SIGCONT)
    wait_for("no trace left", lambda: not traces(own_joblet, job_id))
