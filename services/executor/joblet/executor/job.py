"""A job as its node sees it: what was ordered, what is known of its process, how it ended. Values only.

Times are nanoseconds since the epoch; 0 is "not yet" or "never". Nothing here knows of gRPC or of the database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from joblet.common.states import JobState, Reason
from joblet.executor.cgroup.limits import Limits
from joblet.executor.jobspec import Profile, UploadKind


class Network(StrEnum):
    HOST = "host"  # the node's own network
    NONE = "none"  # a loopback interface of its own, nothing else


@dataclass(frozen=True, slots=True)
class Upload:
    """A file or directory below /work. `path` is relative and safe, `mode` has permission bits only.

    Its bytes are `content` (a link's: its target) or, with a digest, in the node's content cache; a directory with a
    digest is a tree.
    """

    path: str
    mode: int
    content: bytes = field(repr=False)
    kind: UploadKind
    digest: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Earlier:
    """An attempt of a job that is retried, before the present one; `job_id` is what this node knows it by."""

    number: int
    job_id: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the gateway asks for, checked. `secrets` are never written to disk or logged."""

    job_id: str
    command: str
    args: tuple[str, ...]
    limits: Limits
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    network: Network
    work_dir: str
    uploads: tuple[Upload, ...] = field(repr=False)
    timeout_seconds: int  # 0: none
    profile: Profile
    request_id: str
    shown_id: str  # what its users know it by
    attempt: int  # from 1; 0 for a job that is not retried
    outputs: tuple[str, ...] = ()
    earlier: tuple[Earlier, ...] = ()  # those this node had, of a job with outputs


@dataclass(frozen=True, slots=True)
class InitProcess:
    """A job's PID 1, told apart from later processes with the same number by its start and the boot it belongs to."""

    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat
    boot_id: str
    command_pid: int  # the process that becomes the job's command


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job used from start to end."""

    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    peak_memory_bytes: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    wall_seconds: float = 0.0
    oom_kills: int = 0
    voluntary_context_switches: int = 0
    involuntary_context_switches: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The command runs. `facts` are what attestation read back at `attested_ns`, before it ran."""

    started_ns: int
    not_isolated: tuple[str, ...]
    attested_ns: int
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended. `exit_code` is 128 + signal after a signal and -1 when it was stopped; `output_bytes` is
    UNKNOWN_BYTES when the logstore was away and the output is not held open here."""

    state: JobState
    exit_code: int
    signal: int
    reason: Reason
    message: str
    started_ns: int
    ended_ns: int
    usage: Usage
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """One numbered thing that happened to a job."""

    sequence: int
    job_id: str
    time_ns: int
    body: Started | Outcome


@dataclass(frozen=True, slots=True)
class Record:
    """A job as the journal has it. `uid_base` is the first host id of its range.

    `init` and `parked` (what STARTED will say) are set when the command is about to be told to go; without them it has
    never run.
    """

    job_id: str
    state: JobState
    command: str
    uid_base: int
    memory_bytes: int
    timeout_seconds: int
    not_isolated: tuple[str, ...]
    created_ns: int
    init: InitProcess | None = None
    parked: Started | None = None
    started_ns: int = 0
    outcome: Outcome | None = None
