"""Everything at once against one job and the services: a flood of output, a fork bomb, a hog of memory, one of open
files, and `yes`. The job beside them ends as it would alone, and every service keeps answering."""

from __future__ import annotations

import json

import pytest
from limited import PYTHON, Limited
from local_system import run_rnx, wait_for

from joblet.api import job_pb2

pytestmark = [pytest.mark.root, pytest.mark.slow]

CALL_SECONDS = 120.0
LINES = 100
TICK = f"import time\nfor n in range({LINES}):\n    print(n, flush=True)\n    time.sleep(0.02)"
SHARE = 40  # percent of a core for each of the abusers
BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
HOG = "import time\nkept = []\nfor n in range(48): kept.append(bytearray(1 << 20))\ntime.sleep(1000)"
OPENER = """
import os, time
try:
    while True:
        os.open("/", 0)
except OSError:
    pass
time.sleep(1000)
"""
ABUSE: dict[str, tuple[str, ...]] = {
    "flood": ("sh", "-c", "while :; do head -c 1000000 /dev/zero; sleep 0.05; done"),
    "fork bomb": (*PYTHON, BOMB),
    "memory hog": (*PYTHON, HOG),
    "open files": (*PYTHON, OPENER),
    "yes": ("sh", "-c", "yes | head -c 50000000; sleep 1000"),
}


def abused(limited: Limited) -> dict[str, str]:
    """The abusers, running; their ids by name."""
    ids = {
        name: limited.start(*argv, name=name, maxCPU=SHARE, maxMemory=64, maxProcesses=64)
        for name, argv in ABUSE.items()
    }
    for job_id in ids.values():
        wait_for("RUNNING", lambda job_id=job_id: status(limited, job_id).status == "RUNNING")  # type: ignore[misc]
    return ids


def status(limited: Limited, job_id: str) -> job_pb2.GetJobStatusRes:
    return limited.stub.GetJobStatus(job_pb2.GetJobStatusReq(uuid=job_id), timeout=CALL_SECONDS)


def health(limited: Limited) -> dict[str, str]:
    answer = json.loads(run_rnx("--json", "local", "status", "--dir", limited.system.directory).stdout)
    return {str(row["service"]): str(row["health"]) for row in answer["services"]}


def test_abuse_beside_a_quiet_job(limited: Limited) -> None:
    pids = limited.system.pids()
    ids = abused(limited)
    try:
        quiet = limited.run(*PYTHON, TICK)
        assert quiet.how == ("COMPLETED", 0, "exit")
        assert quiet.output == "".join(f"{n}\n" for n in range(LINES))
        assert set(health(limited).values()) == {"SERVING"}
        assert limited.system.pids() == pids
        assert {name: status(limited, job_id).status for name, job_id in ids.items()} == dict.fromkeys(ids, "RUNNING")
    finally:
        for job_id in ids.values():
            limited.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
    for name, job_id in ids.items():
        job = limited.stub.WaitJob(job_pb2.WaitJobReq(uuid=job_id), timeout=CALL_SECONDS).job
        assert (job.status, job.reason) == ("STOPPED", "stopped"), name
        assert job.usage.peakMemoryBytes <= 64 << 20, name
