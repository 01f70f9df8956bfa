"""What the gateway counts. The number of jobs by state is asked of the store, at each scrape and in its thread."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from joblet.common.states import JobState

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_WAIT_BUCKETS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)


class Metrics:
    """`start_seconds` by phase: "gateway" (checked and placed), "store" (the row is durable), "node" (the order
    answered, the executor's own phase among it), "running" (from submission until the command executes)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.start_seconds = Histogram(
            "joblet_job_start_seconds",
            "Time a job's start takes, by phase.",
            ["phase"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.gateway_seconds = self.start_seconds.labels("gateway")
        self.store_seconds = self.start_seconds.labels("store")
        self.node_seconds = self.start_seconds.labels("node")
        self.running_seconds = self.start_seconds.labels("running")
        self.events = Counter("joblet_node_events", "Events of a node applied.", ["node"], registry=registry)
        self.resubmitted = Counter(
            "joblet_jobs_resubmitted", "Jobs handed to their node again, no answer having come.", registry=registry
        )
        self.retried = Counter("joblet_job_retries", "Attempts that another one follows.", registry=registry)
        self.queue_seconds = Histogram(
            "joblet_queue_wait_seconds",
            "Time jobs that had to wait for room did wait.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self.log_bytes = Counter("joblet_log_bytes", "Bytes of log messages passed on to clients.", registry=registry)
        self.log_streams = Gauge("joblet_log_streams", "Clients reading a log.", registry=registry)
        self.log_streams_stalled = Counter(
            "joblet_log_streams_stalled", "Clients sent away because they took nothing.", registry=registry
        )


class JobsByState(Collector):
    """joblet_jobs{state}: every state is there, also with no job in it."""

    def __init__(self, count: Callable[[], Mapping[JobState, int]]) -> None:
        self._count = count

    def describe(self) -> Iterable[Metric]:
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        counts = self._count()
        for state in JobState:
            family.add_metric([state.value], counts.get(state, 0))
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily("joblet_jobs", "Jobs in the store by state.", labels=["state"])
