"""What the executor counts: jobs running now, launches with the time each phase took, and how jobs ended."""

import time
from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RUNNING: Final = Gauge("joblet_jobs_running", "Jobs of this node that have not ended.")
STARTS: Final = Counter("joblet_job_starts_total", "Jobs accepted by this node.")
REFUSALS: Final = Counter("joblet_job_refusals_total", "Jobs this node did not accept.", ["code"])
OUTCOMES: Final = Counter("joblet_job_outcomes_total", "Jobs that ended, by state and reason.", ["state", "reason"])
_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30)
START_SECONDS: Final = Histogram(
    "joblet_job_start_seconds", "Time from the order to the running command, by phase.", ["phase"], buckets=_BUCKETS
)
STEP_SECONDS: Final = Histogram(
    "joblet_job_start_step_seconds", "The same, by the steps of the phases.", ["phase", "step"], buckets=_BUCKETS
)

# Of each phase its steps, in their order. executor: checks and user namespace, limits written and read back, files from
# the logstore, words for jobinit; jobinit: started, its namespaces, the command confined; attest: read back; exec: the
# log has the job's name, the job is durable, the command runs.
PHASES: Final[Mapping[str, tuple[str, ...]]] = {
    "executor": ("admit", "cgroup", "log", "spec"),
    "jobinit": ("spawn", "init", "park"),
    "attest": ("attest",),
    "exec": ("name", "journal", "exec"),
}
_STEPS: Final = {step: STEP_SECONDS.labels(phase, step) for phase, steps in PHASES.items() for step in steps}
_PHASES: Final = {steps[-1]: START_SECONDS.labels(phase) for phase, steps in PHASES.items()}


class Phases:
    """A stopwatch of one launch. What it has seen is counted by `tell`, when nobody waits for the launch any more; not
    of an order that was refused or stopped before its command was told to go."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._reached: list[tuple[str, float]] = []

    def reached(self, step: str) -> None:
        """The end of `step`; the next one begins."""
        self._reached.append((step, time.perf_counter()))

    def tell(self) -> None:
        """Once, when the command runs or cannot be started."""
        step_began = phase_began = self._began
        for step, ended in self._reached:
            _STEPS[step].observe(ended - step_began)
            step_began = ended
            phase = _PHASES.get(step)
            if phase is not None:
                phase.observe(ended - phase_began)
                phase_began = ended
