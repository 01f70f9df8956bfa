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
    """Those that live: an init that has ended is the executor's child until it has been reaped."""
    found = []
    for children in Path(f"/proc/{executor}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [int(pid) for pid in children.read_text().split() if _is_init(int(pid))]
    return found


def _is_init(pid: int) -> bool:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):  # ended while we looked
        return False
    return name == "jobinit" and rest[0] not in "ZX"
