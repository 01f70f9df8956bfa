"""The inits that an executor has prepared ahead, on cgroup v1: a few for each network that a job has asked for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from local_system import wait_for

STOCK = 2  # of each network, `joblet.executor.reserve`


def all_prepared(executor: int, networks: int) -> list[int]:
    """Their pids when the executor, which has no job now, has made all of them: a moment after its last launch."""
    wanted = STOCK * networks
    return wait_for(f"{wanted} inits that wait for a job", lambda: _when(_inits_of(executor), wanted))


def _when(pids: list[int], wanted: int) -> list[int] | None:
    return pids if len(pids) == wanted else None


def _inits_of(executor: int) -> list[int]:
    """Those that live: the children of the executor's nursery."""
    return [pid for nursery in _children(executor) for pid in _children(nursery) if _lives(pid)]


def _children(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in children.read_text().split()]
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # ended while we looked
        return False
