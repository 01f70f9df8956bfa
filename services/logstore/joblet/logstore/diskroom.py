"""Whether the filesystem of the logs is full: known from the jobs that wait for room, and told once."""

import time
from collections.abc import Sequence

from joblet.common.log import get_logger
from joblet.logstore import metrics

QUIET_SECONDS = 5.0  # without a waiting job, and the disk counts as one with room again

log = get_logger(__name__)


class DiskRoom:
    def __init__(self) -> None:
        self.free_bytes = 0
        self._waiting: frozenset[str] = frozenset()
        self._full_since: float | None = None  # monotonic seconds
        self._last_wait = 0.0

    @property
    def is_full(self) -> bool:
        return self._full_since is not None

    def seen(self, waiting: Sequence[str], free_bytes: int) -> None:
        """Which jobs wait now, and the room that there is."""
        now = time.monotonic()
        self.free_bytes = free_bytes
        metrics.FREE.set(free_bytes)
        metrics.WAITING.set(len(waiting))
        metrics.PAUSES.inc(len(set(waiting) - self._waiting))
        self._waiting = frozenset(waiting)
        if waiting:
            self._last_wait = now
            if self._full_since is None:
                self._full_since = now
                log.error("disk full: jobs wait to write their output", jobIds=",".join(waiting), freeBytes=free_bytes)
        elif self._full_since is not None and now - self._last_wait > QUIET_SECONDS:
            log.info("disk has room again", seconds=round(self._last_wait - self._full_since, 1), freeBytes=free_bytes)
            self._full_since = None
