"""kill -9 of any service while jobs run and print: every job keeps its own end and every byte."""

from __future__ import annotations

import pytest
from local_system import SERVICES, LocalSystem, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

JOBS = 20
LINES = 800
PROGRAM = f"""
import sys, time
number = int(sys.argv[1])
for line in range({LINES}):
    print(number, "line", line, flush=True)
    time.sleep(0.04)
sys.exit(number)
"""


def test_killed_services_cost_no_job_and_no_byte(own_joblet: LocalSystem) -> None:
    jobs = {
        number: own_joblet.run("--max-cpu=20", "--max-memory=64", "python3", "-c", PROGRAM, str(number))
        for number in range(JOBS)
    }
    for service in SERVICES:
        states = [line.split()[1] for line in own_joblet.output("job", "list").splitlines()]
        assert states == ["RUNNING"] * JOBS, f"before {service} is killed"
        own_joblet.kill(service)
    for number, job_id in jobs.items():
        wanted = b"".join(b"%d line %d\n" % (number, line) for line in range(LINES))
        assert own_joblet.log(job_id) == wanted
        status = own_joblet.status(job_id)
        assert (status["Status"], status["ExitCode"]) == ("FAILED" if number else "COMPLETED", str(number))


def test_stop_works_after_the_executor_came_back(own_joblet: LocalSystem) -> None:
    job_id = own_joblet.run("sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
    wait_for("RUNNING", lambda: own_joblet.status(job_id)["Status"] == "RUNNING")
    own_joblet.kill("executor")
    assert "Status: STOPPED" in own_joblet.output("job", "stop", job_id)
