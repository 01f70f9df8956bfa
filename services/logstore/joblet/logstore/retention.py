"""What is removed from the node's disk, and in which order: decided here from values, done in keeping.py.

* One job's output has a size; what goes beyond it goes from its front, whether the job runs or not.
* All logs together have a size, the filesystem keeps some room free, and a log has an age: of the jobs that have ended
  the one that ended first goes first. A job that runs loses nothing to these three.
* With an archive, a log goes only when its copy is there. What goes is the node's copy; the other one stays.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from joblet.common.config import LogRetentionConfig
from joblet.common.units import MIB, NS_PER_SECOND
from joblet.logstore.layout import LogState


class Reason(StrEnum):
    SIZE = "size"
    AGE = "age"
    TOTAL = "total"
    ROOM = "room"


@dataclass(frozen=True, slots=True)
class Limits:
    """0: no limit."""

    age_ns: int
    job_bytes: int
    total_bytes: int
    free_bytes: int

    @classmethod
    def of(cls, config: LogRetentionConfig) -> "Limits":
        return cls(
            age_ns=round(config.max_age_seconds * NS_PER_SECOND),
            job_bytes=config.max_job_size_mb * MIB,
            total_bytes=config.max_total_mb * MIB,
            free_bytes=config.min_free_mb * MIB,
        )


def front(log: LogState, limits: Limits) -> int | None:
    """Up to which byte the output is to be removed; None while it is within its size and an eighth.

    The eighth makes one large removal of many small ones.
    """
    if not limits.job_bytes or log.sealed or log.total_bytes - log.first <= limits.job_bytes + limits.job_bytes // 8:
        return None
    return log.total_bytes - limits.job_bytes


def removals(
    logs: Iterable[LogState], limits: Limits, now_ns: int, free_bytes: int, archive: str
) -> Iterator[tuple[LogState, Reason]]:
    """The logs to remove, in order. `archive` is the URL that logs are copied to, empty when there is none."""
    known = list(logs)
    total_bytes = sum(log.disk_bytes for log in known)
    first_end_ns = min((log.ended_ns for log in known if log.ended_ns is not None), default=now_ns)
    if not _is_due(limits, now_ns - first_end_ns, total_bytes, free_bytes):
        return  # mostly, and there may be many logs to put in order
    ended = [(log.ended_ns, log.job_id, log) for log in known if log.ended_ns is not None and log.archive == archive]
    for ended_ns, _, log in sorted(ended, key=lambda item: item[:2]):
        if limits.age_ns and ended_ns + limits.age_ns <= now_ns:
            yield log, Reason.AGE
        elif limits.total_bytes and total_bytes > limits.total_bytes:
            yield log, Reason.TOTAL
        elif free_bytes < limits.free_bytes:
            yield log, Reason.ROOM
        else:
            return
        total_bytes -= log.disk_bytes
        free_bytes += log.disk_bytes


def _is_due(limits: Limits, oldest_ns: int, total_bytes: int, free_bytes: int) -> bool:
    return 0 < limits.age_ns <= oldest_ns or 0 < limits.total_bytes < total_bytes or free_bytes < limits.free_bytes
