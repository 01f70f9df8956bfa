"""Jobs that take all they can get: output, processes, memory, open files. For a test and a benchmark beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limited import CALL_SECONDS, PYTHON, Limited
from local_system import wait_for

from joblet.api import job_pb2

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
MEMORY_MB = 64


@contextmanager
def abused(limited: Limited) -> Iterator[dict[str, str]]:
    """One of each is running, by name its id; they are stopped in the end."""
    ids = {
        name: limited.start(*argv, name=name, maxCPU=SHARE, maxMemory=MEMORY_MB, maxProcesses=64)
        for name, argv in ABUSE.items()
    }
    try:
        for job_id in ids.values():
            wait_for("RUNNING", lambda job_id=job_id: limited.status(job_id).status == "RUNNING")  # type: ignore[misc]
        yield ids
    finally:
        for job_id in ids.values():
            limited.stub.StopJob(job_pb2.StopJobReq(uuid=job_id), timeout=CALL_SECONDS)
