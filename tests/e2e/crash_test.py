"""kill -9 of any service while jobs run and print: every job keeps its own end and every byte."""

from __future__ import annotations

import pytest
from gate import gate
from local_system import SERVICES, LocalSystem, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

JOBS = 20
# A line every 40 ms until the gate opens, then how many lines there were.
PROGRAM = """
import select, socket, sys
number, line = int(sys.argv[1]), 0
gate = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
while not select.select([gate], [], [], 0.04)[0]:
    print(number, "line", line, flush=True)
    line += 1
print(number, "printed", line)
sys.exit(number)
"""


def states(joblet: LocalSystem) -> list[str]:
    return [line.split()[1] for line in joblet.output("job", "list").splitlines()]


def test_killed_services_cost_no_job_and_no_byte(own_joblet: LocalSystem) -> None:
    with gate() as end:
        jobs = {
            number: own_joblet.run(
                "--max-cpu=20", "--max-memory=64", "python3", "-c", PROGRAM, str(number), str(end.port)
            )
            for number in range(JOBS)
        }
        end.wait_for(JOBS)
        for service in SERVICES:
            wait_for(f"all jobs run before {service} is killed", lambda: states(own_joblet) == ["RUNNING"] * JOBS)
            own_joblet.kill(service)
        end.open()
        for number, job_id in jobs.items():
            *lines, last = own_joblet.log(job_id).splitlines()
            assert lines == [b"%d line %d" % (number, line) for line in range(len(lines))]
            assert last == b"%d printed %d" % (number, len(lines))
            assert lines, "it printed nothing while services were killed"
            status = own_joblet.status(job_id)
            assert (status["Status"], status["ExitCode"]) == ("FAILED" if number else "COMPLETED", str(number))


def test_stop_works_after_the_executor_came_back(own_joblet: LocalSystem) -> None:
    job_id = own_joblet.run("sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
    wait_for("RUNNING", lambda: own_joblet.status(job_id)["Status"] == "RUNNING")
    own_joblet.kill("executor")
    own_joblet.stop(job_id)
    assert own_joblet.status(job_id)["Status"] == "STOPPED"
