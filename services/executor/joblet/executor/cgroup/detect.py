"""Chooses the driver for this machine."""

from joblet.executor.cgroup import files
from joblet.executor.cgroup.driver import CgroupDriver
from joblet.executor.cgroup.hierarchies import discover
from joblet.executor.cgroup.v1 import JOINED, V1Driver
from joblet.executor.cgroup.v2 import REQUIRED, V2Driver


def detect(parent: str) -> CgroupDriver:
    """The v2 driver when all it needs is in the unified hierarchy, else that for v1. CgroupError when neither can be.

    `parent` is "joblet" (below the executor's own cgroup) or "/joblet" (below the root that is mounted here).
    """
    found = discover()
    if found.unified is not None:
        controllers = files.read(f"{found.unified.mount_point}/cgroup.controllers").split()
        # With no v1 hierarchy to fall back on, prepare() of the v2 driver says what is missing.
        if set(REQUIRED) <= set(controllers) or not set(JOINED) & found.v1.keys():
            return V2Driver(found.unified, parent)
    return V1Driver(found.v1, parent)
