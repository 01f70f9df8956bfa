"""Whether this node takes a job: values in, a refusal or nothing out. The gateway places; a node never queues."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from joblet.common.errors import InvalidArgument, ResourceExhausted
from joblet.common.units import MIB, format_cpu_list
from joblet.executor.cgroup.limits import Limits

_PAGE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the node has. `cores` are the CPU numbers this executor may use."""

    cores: frozenset[int]
    memory_bytes: int
    max_processes: int  # kernel.pid_max
    max_concurrent_jobs: int


def admit(limits: Limits, capacity: Capacity, running_jobs: int) -> None:
    """Raises InvalidArgument for a limit the node can never give, ResourceExhausted when it is full now."""
    for field, fits in _fits(limits, capacity).items():
        if not fits:
            raise InvalidArgument(
                f"job creation failed: {field} exceeds system limits",
                field=field, hint=f"this node has {_has(field, capacity)}",
            )  # fmt: skip
    if running_jobs >= capacity.max_concurrent_jobs:
        raise ResourceExhausted(
            f"this node runs {running_jobs} jobs already, the most it may (maxConcurrentJobs)",
            hint="try again when a job has ended",
        )


def check_room(upload_bytes: int, limits: Limits, work_bytes: int) -> None:
    """Raises InvalidArgument when a job's uploads cannot fit where they go: /work is memory of the job's."""
    for field, room in (("workSizeMb", work_bytes), ("maxMemory", limits.memory_bytes)):
        if upload_bytes > room:
            raise InvalidArgument(
                f"job creation failed: uploads of {upload_bytes / MIB:.1f} MB do not fit into the job's /work",
                field="uploads", hint=f"{field} leaves {room // MIB} MB; /work lies in the job's memory",
            )  # fmt: skip


def _fits(limits: Limits, capacity: Capacity) -> Mapping[str, bool]:
    """By field: whether there is as much as asked for."""
    return {
        "maxCPU": limits.cpu_percent <= 100 * len(capacity.cores),
        "cpuCores": capacity.cores.issuperset(limits.cpu_cores or ()),
        "maxMemory": limits.memory_bytes <= capacity.memory_bytes,
        "maxProcesses": limits.max_processes <= capacity.max_processes,
    }


def _has(field: str, capacity: Capacity) -> str:
    """How much there is, in words."""
    return {
        "maxCPU": f"{100 * len(capacity.cores)}, 100 for each core",
        "cpuCores": f"the cores {format_cpu_list(capacity.cores)}",
        "maxMemory": f"{capacity.memory_bytes // MIB} MB",
        "maxProcesses": f"at most {capacity.max_processes} processes",
    }[field]


def check_limits(limits: Limits) -> None:
    """Raises InvalidArgument for numbers that are no limits at all."""
    positive = {"maxCPU": limits.cpu_percent, "maxProcesses": limits.max_processes}
    for field, value in positive.items():
        if value <= 0:
            raise InvalidArgument(f"{field} must be positive, got {value}", field=field)
    if limits.memory_bytes < _PAGE_BYTES:
        raise InvalidArgument(f"maxMemory must be at least {_PAGE_BYTES} bytes, got {limits.memory_bytes}",
                              field="maxMemory")  # fmt: skip
    if limits.io_bytes_per_second < 0:
        raise InvalidArgument(f"maxIOBPS must not be negative, got {limits.io_bytes_per_second}", field="maxIOBPS")
