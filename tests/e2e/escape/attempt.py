"""What the programs of the corpus say: one line, "reached HOW" or "stopped BY AT", and exit status 0 or 1."""

import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn


def reached(how: object) -> NoReturn:
    print("reached", how)
    sys.exit(0)


def stopped(by: str, at: object) -> NoReturn:
    print("stopped", by, at)
    sys.exit(1)


@contextmanager
def attempt(at: object) -> Iterator[None]:
    """An OSError inside ends the program."""
    try:
        yield
    except OSError as error:
        stopped(errno.errorcode.get(error.errno or 0, "error"), at)


def open_for_writing(path: str) -> NoReturn:
    """Opens and closes; nothing is written."""
    with attempt(path), Path(path).open("wb", buffering=0):
        reached(f"{path} open for writing")


def first_readable(paths: Iterable[Path]) -> NoReturn:
    """The first of these files that can be read."""
    by = "ENOENT"
    for path in paths:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "error")
            by = by if name == "ENOENT" else name
        else:
            reached(path)
    stopped(by, "all of them")


def others(below: str) -> Iterator[Path]:
    """`below` of every other process in /proc."""
    own = str(Path("/proc/self").readlink())
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and process.name != own:
            yield process / below.lstrip("/")
