"""What all jobs of a node share while the executor runs, and what one job holds of it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from joblet.executor.cgroup.driver import CgroupDriver, Device
from joblet.executor.feed import Feed
from joblet.executor.journal import Journal
from joblet.executor.launch import Node
from joblet.executor.logs import LogStore
from joblet.executor.outputs import Outputs
from joblet.executor.statedirs import StateDirectories
from joblet.executor.userns import UserNamespacePool


@dataclass(frozen=True, slots=True)
class Site:
    """`states` has one directory per job; `devices` are the disks under what jobs can read; `cleaner` is one
    thread, which removes what ended jobs leave."""

    journal: Journal
    feed: Feed
    cgroups: CgroupDriver
    devices: tuple[Device, ...]
    users: UserNamespacePool
    logs: LogStore
    node: Node
    states: StateDirectories
    cleanup_seconds: float
    cleaner: ThreadPoolExecutor
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class Claims:
    """`descriptors` are this process's view of a job, closed whenever it stops looking; `holdings` are what the node
    gave the job, given back (by any thread) when the job has ended and only then: they outlive the executor."""

    descriptors: ExitStack
    holdings: ExitStack
