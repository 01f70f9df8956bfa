"""What the executor counts: jobs running now, launches with the time each phase took, and how jobs ended."""

import time
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RUNNING: Final = Gauge("joblet_jobs_running", "Jobs of this node that have not ended.")
STARTS: Final = Counter("joblet_job_starts_total", "Jobs accepted by this node.")
REFUSALS: Final = Counter("joblet_job_refusals_total", "Jobs this node did not accept.", ["code"])
OUTCOMES: Final = Counter("joblet_job_outcomes_total", "Jobs that ended, by state and reason.", ["state", "reason"])
START_SECONDS: Final = Histogram(
    "joblet_job_start_seconds",
    "Time from the order to the running command, by phase.",
    ["phase"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
)

# admit: checks, user namespace; cgroup: limits written and read back; log: files from the logstore; journal: durable;
# spawn: jobinit started; init: its namespaces; park: the command confined; attest: read back; exec: the command runs.
PHASES: Final = ("admit", "cgroup", "log", "journal", "spawn", "init", "park", "attest", "exec")
_OBSERVERS: Final = {phase: START_SECONDS.labels(phase) for phase in PHASES}


class Phases:
    """A stopwatch of one launch."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def reached(self, phase: str) -> None:
        """The end of `phase`; the next one begins."""
        now = time.perf_counter()
        _OBSERVERS[phase].observe(now - self._last)
        self._last = now

    def restart(self) -> None:
        """Leaves out what happened since the last phase ended."""
        self._last = time.perf_counter()
