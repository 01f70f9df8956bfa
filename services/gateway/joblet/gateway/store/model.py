"""The rows of the store as values. Times are nanoseconds since the epoch, 0 for "not yet"."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from joblet.common.states import TERMINAL, UNKNOWN_BYTES, JobState, Reason


class NodeState(StrEnum):
    READY = "READY"  # its lease runs
    LOST = "LOST"  # its lease ran out; its jobs were failed


@dataclass(frozen=True, slots=True)
class Upload:
    """A file below /work, without its content. With a digest that is in `joblet.gateway.uploads`; a directory's is a
    tree."""

    path: str
    mode: int
    size: int
    is_directory: bool
    digest: str = ""
    link_target: str = ""


class Job(NamedTuple):
    """One job. The order of the fields is that of the columns of `schema.jobs`.

    Not a frozen dataclass, which takes ten times as long to make: with so many fields a good part of a query.
    """

    sequence: int  # order of submission; the page token of ListJobs
    id: str
    request_id: str | None
    request_digest: str
    node_id: str
    state: JobState
    acknowledged: bool  # the node is known to have taken the job
    reason: str
    message: str
    exit_code: int
    signal: int
    submitted_ns: int
    started_ns: int
    ended_ns: int
    output_bytes: int
    name: str
    command: str
    args: tuple[str, ...]
    cpu_percent: int
    cpu_cores: str
    memory_mb: int
    io_bytes_per_second: int
    max_processes: int
    environment: Mapping[str, str]
    secret_names: tuple[str, ...]
    network: str
    work_dir: str
    uploads: tuple[Upload, ...]
    timeout_seconds: int
    labels: Mapping[str, str]
    not_isolated: tuple[str, ...]
    usage: bytes | None  # a job_pb2.Usage as its node sent it; nobody here looks inside
    attestation: bytes | None  # a job_pb2.Attestation, likewise
    wanted_node: str  # the only node it may run on, "" for any
    rank: int  # of those that wait, the smallest goes first: the priority, negated
    queued_ns: int  # since when it waits or has waited for room
    due_ns: int  # not before
    need_cpu_percent: int  # what it takes of its node's capacity; 0 for a limit that nobody has set
    need_memory_mb: int
    max_retries: int
    backoff_seconds: int
    no_retry_codes: tuple[int, ...]
    retries_left: int
    attempt: int  # number of the present one, from 1
    execution_id: str  # under which its node knows the present attempt; "" for the job's own id
    outputs: tuple[str, ...]  # patterns of what its node keeps of /work
    upload_bytes: int  # of all its uploads together

    @property
    def execution(self) -> str:
        return self.execution_id or self.id

    @property
    def priority(self) -> int:
        return -self.rank

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that another one followed. The order of the fields is that of the columns of `schema.attempts`."""

    job_id: str
    number: int
    execution_id: str
    node_id: str
    state: JobState
    reason: str
    message: str
    exit_code: int
    signal: int
    started_ns: int
    ended_ns: int
    output_bytes: int


def output_known(attempt: Job | Attempt) -> bool:
    """Whether `output_bytes` says how much it has printed: it has ended, and nobody but its node could know."""
    return attempt.state in TERMINAL and attempt.reason != Reason.NODE_LOST and attempt.output_bytes != UNKNOWN_BYTES


@dataclass(frozen=True, slots=True)
class Node:
    """One node as its last heartbeat described it. The order of the fields is that of the columns of `schema.nodes`."""

    id: str
    state: NodeState
    executor_address: str
    logstore_address: str
    runtime_address: str
    boot_id: str
    cpu_cores: int
    memory_bytes: int
    labels: Mapping[str, str]
    version: str
    system: str
    registered_ns: int
    last_seen_ns: int
    lease_until_ns: int
    last_sequence: int  # number of the last event applied
    cores: str  # cpuset list of its CPUs; empty as long as its heartbeat does not say
    max_processes: int  # the most processes it can have; 0 as long as its heartbeat does not say
    work_bytes: int  # the size of a job's /work; 0 as above
    content_bytes: int  # what it can hold of uploads; 0 as above
