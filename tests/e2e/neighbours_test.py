"""Everything at once against one job and the services: a flood of output, a fork bomb, a hog of memory, one of open
files, and `yes`. The job beside them ends as it would alone, and every service keeps answering."""

from __future__ import annotations

import json

import pytest
from abusers import MEMORY_MB, abused
from limited import MIB, PYTHON, Limited
from local_system import run_rnx, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow]

LINES = 100
TICK = f"import time\nfor n in range({LINES}):\n    print(n, flush=True)\n    time.sleep(0.02)"


def health(limited: Limited) -> dict[str, str]:
    answer = json.loads(run_rnx("--json", "local", "status", "--dir", limited.system.directory).stdout)
    return {str(row["service"]): str(row["health"]) for row in answer["services"]}


def test_abuse_beside_a_quiet_job(limited: Limited) -> None:
    pids = limited.system.pids()
    with abused(limited) as ids:
        quiet = limited.run(*PYTHON, TICK)
        assert quiet.how == ("COMPLETED", 0, "exit")
        assert quiet.output == "".join(f"{n}\n" for n in range(LINES))
        wait_for("every service answers", lambda: set(health(limited).values()) == {"SERVING"})
        assert limited.system.pids() == pids
        assert {name: limited.status(job_id).status for name, job_id in ids.items()} == dict.fromkeys(ids, "RUNNING")
    for name, job_id in ids.items():
        job = limited.wait(job_id)
        assert (job.status, job.reason) == ("STOPPED", "stopped"), name
        assert job.usage.peakMemoryBytes <= MEMORY_MB * MIB, name
