"""Which node a job goes to, whether there is room, and what one that waits is waiting for. Pure: values in, values out.

CPU is percent of one core, memory MB (2^20 bytes). A job takes of its node what its limits allow it: memory that may be
used must be there, so memory limits together stay within what the node has (times `joblet.memoryOvercommit`); CPU time
is shared and a limit is only a ceiling, so CPU limits together may be several times the cores (`joblet.cpuOvercommit`).

The order is strict: a node's next job is the first in line of those that could ever run there, and while that one does
not fit, the node takes no other. So no big job starves behind small ones, and a node that is busy, or away, holds up
only the jobs that need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from joblet.common.config import JobletConfig
from joblet.common.units import MIB, parse_cpu_list
from joblet.gateway.store.model import Node


class Waiting(StrEnum):
    """What a job that has not started is waiting for: `reason` in its status."""

    JOBS = "max-concurrent-jobs"
    CPU = "cpu"
    MEMORY = "memory"
    NODE = "node"  # to be connected
    QUEUE = "queue"  # those before it
    SCHEDULE = "schedule"  # its time


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job takes of its node's capacity while it is there; 0 for what it has no limit of."""

    cpu_percent: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has for jobs, overcommitment included; `largest` is the most that one job can have there."""

    jobs: int
    cpu_percent: int
    memory_mb: int
    largest: Needs


@dataclass(frozen=True, slots=True)
class Load:
    """What the jobs of a node, INITIALIZING and RUNNING, take of it together."""

    jobs: int
    cpu_percent: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Room:
    """A node as a job finds it. `taken` when somebody in line before the job waits for this node, `full` when the node
    itself has said that it takes no more for now; `upload_bytes` as in store.queue.Place."""

    node_id: str
    capacity: Capacity
    load: Load
    taken: bool = False
    full: bool = False
    connected: bool = True
    upload_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A job's place in the queue, 1 for the next, and how many wait."""

    place: int
    length: int


@dataclass(frozen=True, slots=True)
class Why:
    """What a job waits for, by name and in words."""

    reason: Waiting
    message: str


def capacity(node: Node, config: JobletConfig) -> Capacity:
    cpu_percent, memory_mb = node.cpu_cores * 100, node.memory_bytes // MIB
    total_cpu = int(cpu_percent * config.cpu_overcommit)
    total_memory = int(memory_mb * config.memory_overcommit)
    largest = Needs(min(cpu_percent, total_cpu), min(memory_mb, total_memory))
    return Capacity(config.max_concurrent_jobs, total_cpu, total_memory, largest)


def fits_empty(needs: Needs, offered: Capacity) -> bool:
    """Whether waiting can make room for the job at all."""
    return needs.cpu_percent <= offered.largest.cpu_percent and needs.memory_mb <= offered.largest.memory_mb


def has_cores(wanted: str, there: str) -> bool:
    """Whether a node with the cores `there` has those `wanted`; both are lists such as "0-2,5". "" wants any, and of a
    node that does not say, nothing is known: it will refuse itself what it does not have."""
    return not wanted or not there or set(parse_cpu_list(wanted)) <= set(parse_cpu_list(there))


@dataclass(frozen=True, slots=True)
class UploadRoom:
    """The most bytes that a job's uploads can have together, and the setting that says so."""

    size: int
    setting: str


def upload_room(node: Node, largest: Needs, memory_mb: int = 0) -> UploadRoom:
    """For a job with this memory limit, or none: uploads pass through the node's cache into /work, which lies in the
    job's memory. What the node does not say is no limit here: it will refuse itself what it does not have."""
    rooms = (
        UploadRoom((memory_mb or largest.memory_mb) * MIB, "maxMemory"),
        UploadRoom(node.work_bytes, "workSizeMb"),
        UploadRoom(node.content_bytes, "contentTotalMb"),
    )
    return min((room for room in rooms if room.size), key=lambda room: room.size, default=rooms[0])


def shortage(needs: Needs, room: Room) -> Why | None:
    """What the node has too little of just now, None when the job can go there."""
    offered, load, node = room.capacity, room.load, room.node_id
    if not room.connected:
        return Why(Waiting.NODE, f"waiting for node {node}: not connected")
    if room.full:
        return Why(Waiting.JOBS, f"waiting for a job to end on node {node}, which takes no more for now")
    if load.jobs >= offered.jobs:
        return Why(Waiting.JOBS, f"waiting for a job to end on node {node}: it has maxConcurrentJobs ({offered.jobs})")
    free = offered.memory_mb - load.memory_mb
    if needs.memory_mb > free:
        return Why(Waiting.MEMORY, f"waiting for memory on node {node}: needs {needs.memory_mb} MB, {max(free, 0)} MB"
                   " free")  # fmt: skip
    free = offered.cpu_percent - load.cpu_percent
    if needs.cpu_percent > free:
        return Why(Waiting.CPU, f"waiting for CPU on node {node}: needs {needs.cpu_percent} %, {max(free, 0)} % free")
    return None


def choose(needs: Needs, rooms: Sequence[Room]) -> str | None:
    """The node for a new job: of those with room that nobody before it waits for, the one with the fewest jobs."""
    ready = [room for room in rooms if not room.taken and shortage(needs, room) is None]
    return min(ready, key=lambda room: (room.load.jobs, room.node_id)).node_id if ready else None


def explain(needs: Needs, rooms: Sequence[Room], line: Line, upload_bytes: int = 0) -> Why:
    """Why a job waits that uploads so much. Of several nodes that it could run on the least loaded one is named."""
    where = f"place {line.place} of {line.length} in the queue"
    large = [room for room in rooms if fits_empty(needs, room.capacity)]
    if not large:
        return Why(Waiting.NODE, f"waiting for a node that is large enough; {where}")
    suitable = [room for room in large if not room.upload_bytes or upload_bytes <= room.upload_bytes]
    if not suitable:
        most = max(room.upload_bytes for room in large)
        uploads = f"uploads of {upload_bytes} bytes: there is one for at most {most}"
        return Why(Waiting.NODE, f"waiting for a node with room for {uploads}; {where}")
    nearest = min(suitable, key=lambda room: (not room.connected, room.load.jobs, room.node_id))
    short = shortage(needs, nearest)
    if short is None:
        return Why(Waiting.QUEUE, f"waiting for those before it; {where}")
    others = f" (and {len(suitable) - 1} more)" if len(suitable) > 1 else ""
    return Why(short.reason, f"{short.message}{others}; {where}")
