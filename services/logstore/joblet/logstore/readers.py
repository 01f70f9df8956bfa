"""Who is reading which log, and how far: so that retention does not take away what a reader is about to read.

A reader that goes away may be one whose connection broke, and come back: it counts for `return_seconds` more.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RETURN_SECONDS = 10.0  # in which gateways and clients find their way back


@dataclass(slots=True)
class Reader:
    """All output before `position` has been sent, or was not asked for; None while that is not known yet."""

    position: int | None = None

    def is_before(self, offset: int) -> bool:
        return self.position is None or self.position < offset


class Readers:
    def __init__(self, return_seconds: float) -> None:
        self._return_seconds = return_seconds
        self._reading: dict[str, list[Reader]] = {}
        self._left: deque[tuple[float, str, Reader]] = deque()  # until when they count, monotonic seconds

    @contextmanager
    def reading(self, job_id: str) -> Iterator[Reader]:
        reader = Reader()
        self._reading.setdefault(job_id, []).append(reader)
        try:
            yield reader
        finally:
            self._forget_left()
            self._left.append((time.monotonic() + self._return_seconds, job_id, reader))
            others = [other for other in self._reading[job_id] if other is not reader]
            if others:
                self._reading[job_id] = others
            else:
                del self._reading[job_id]

    def any_before(self, job_id: str, offset: int) -> bool:
        """Whether somebody still has to read output before byte `offset`."""
        self._forget_left()
        left = [reader for _, left_id, reader in self._left if left_id == job_id]
        return any(reader.is_before(offset) for reader in (*self._reading.get(job_id, ()), *left))

    def lowest(self, job_id: str) -> int | None:
        """How far the one is that is furthest behind; None when there is none."""
        positions = [reader.position for reader in self._reading.get(job_id, ()) if reader.position is not None]
        return min(positions, default=None)

    def _forget_left(self) -> None:
        while self._left and self._left[0][0] <= time.monotonic():
            self._left.popleft()
