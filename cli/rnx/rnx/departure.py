"""Noticing that whoever reads our stdout has left, also while there is nothing to write: `rnx job log ID | head`."""

import os
import select
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noticed(then: Callable[[], None]) -> Iterator[threading.Event]:
    """The event is set, and `then` called in a thread, when stdout is a pipe and nobody has its other end any more.

    poll(2) tells that without being asked for anything (POLLERR). On systems without it, the next write does.
    """
    left = threading.Event()
    if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        yield left
        return
    enough, ours = os.pipe()
    thread = threading.Thread(target=_wait, args=(sys.stdout.fileno(), enough, left, then), daemon=True)
    thread.start()
    try:
        yield left
    finally:
        os.close(ours)
        thread.join()
        os.close(enough)


def _wait(stdout: int, enough: int, left: threading.Event, then: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(stdout, 0)
    poll.register(enough, 0)  # reports that our end of it was closed
    if stdout in dict(poll.poll()):
        left.set()
        then()
