"""Who is reading which log, and how far: so that retention does not take away what a reader is about to read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Reader:
    """All output before `position` has been sent, or was not asked for; None while that is not known yet."""

    position: int | None = None


class Readers:
    def __init__(self) -> None:
        self._reading: dict[str, list[Reader]] = {}

    @contextmanager
    def reading(self, job_id: str) -> Iterator[Reader]:
        reader = Reader()
        self._reading.setdefault(job_id, []).append(reader)
        try:
            yield reader
        finally:
            left = [other for other in self._reading[job_id] if other is not reader]
            if left:
                self._reading[job_id] = left
            else:
                del self._reading[job_id]

    def any_before(self, job_id: str, offset: int) -> bool:
        """Whether somebody still has to read output before byte `offset`."""
        return any(reader.position is None or reader.position < offset for reader in self._reading.get(job_id, ()))

    def lowest(self, job_id: str) -> int | None:
        """How far the one is that is furthest behind; None when there is none."""
        positions = [reader.position for reader in self._reading.get(job_id, ()) if reader.position is not None]
        return min(positions, default=None)
