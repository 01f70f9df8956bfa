"""Jobs as a table: as wide as the terminal and no wider, or as wide as it gets when no terminal shows it.

Where the room is short, ids are cut to the characters that every verb takes for a whole one, names to a readable rest,
and the command to what is left; where even that is too much, columns are left out from the right. Pure functions;
colours are added by who prints.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import combining, east_asian_width

from joblet.api.job_pb2 import Job
from joblet.common.states import TERMINAL
from rnx.output import command_line, printable

_TITLES = ("JOB ID", "JOB NAME", "STATUS", "EXIT CODE", "START TIME", "COMMAND")
_ID, _NAME, _COMMAND = 0, 1, 5
STATUS = 2  # the column that has a colour
_SHORT_ID, _SHORT_NAME, _ROOM_FOR_COMMAND = 8, 16, 24
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, its cells padded; the last one is not."""

    cells: tuple[str, ...]

    def __str__(self) -> str:
        return _GAP.join(self.cells).rstrip()


def rows(jobs: Sequence[Job], columns: int | None) -> Iterator[Row]:
    """The titles, a rule, and a row for each job, none wider than `columns` (None: any width)."""
    content = [_TITLES, *(_cells(job) for job in jobs)]
    widths = _widths(content, columns)
    yield _row(_TITLES, widths)
    yield Row(("-" * _line(widths),))
    for cells in content[1:]:
        yield _row(cells, widths)


def _cells(job: Job) -> tuple[str, ...]:
    """A job that has not ended has no exit code yet."""
    code = str(job.exitCode) if job.status in TERMINAL else "-"
    return job.id, printable(job.name) or "-", job.status, code, job.startTime or "-", command_line(job)


def _widths(content: Sequence[tuple[str, ...]], columns: int | None) -> list[int]:
    widths = [max(_width(cell) for cell in column) for column in zip(*content, strict=True)]
    if columns is None:
        return widths
    for column, shortest in ((_ID, _SHORT_ID), (_NAME, _SHORT_NAME)):
        if columns - _taken(widths) < min(widths[_COMMAND], _ROOM_FOR_COMMAND):
            widths[column] = min(widths[column], max(shortest, len(_TITLES[column])))
    widths[_COMMAND] = max(1, min(widths[_COMMAND], columns - _taken(widths)))
    while len(widths) > 1 and _line(widths) > columns:
        widths.pop()
    return [min(widths[0], columns), *widths[1:]]


def _taken(widths: Sequence[int]) -> int:
    """By everything in front of the command."""
    return sum(widths[:_COMMAND]) + len(_GAP) * _COMMAND


def _line(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _row(cells: Sequence[str], widths: Sequence[int]) -> Row:
    shown = zip(cells, widths, strict=False)  # those that there is room for
    cut = [_cut(cell, width, whole=number != _ID) for number, (cell, width) in enumerate(shown)]
    return Row(tuple(cell + " " * (width - _width(cell)) for cell, width in zip(cut, widths, strict=True)))


def _cut(text: str, width: int, *, whole: bool) -> str:
    """At most `width` columns of `text`; with "…" at the end where something is missing (not of an id, which stays
    one that can be typed)."""
    if _width(text) <= width:
        return text
    kept, room = "", width - (1 if whole else 0)
    for character in text:
        room -= _width(character)
        if room < 0:
            break
        kept += character
    return kept + "…" if whole else kept


def _width(text: str) -> int:
    """How many columns of a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)
