"""Waiting in the event loop for a descriptor, such as a pidfd: readable once its process has ended, pidfd_open(2)."""

import asyncio
import os
import select
import signal
from contextlib import suppress


async def readable(fd: int, seconds: float | None = None) -> bool:
    """Returns when `fd` is readable, or False when it is not for so long. Nobody else may wait for the same descriptor
    at the same time."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell(is_readable: bool) -> None:
        loop.remove_reader(fd)  # at once: it would be told again before the task that waits has its turn
        if not ready.done():
            ready.set_result(is_readable)

    # Not asyncio.timeout, which would have to cancel the task: every job comes here.
    limit = None if seconds is None else loop.call_later(seconds, tell, False)
    loop.add_reader(fd, tell, True)
    try:
        return bool(await ready)
    except BaseException:
        loop.remove_reader(fd)
        raise
    finally:
        if limit is not None:
            limit.cancel()


def end(pidfd: int) -> None:
    """Kills the process, returns when it has ended and closes the descriptor. For one that can end at once."""
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        reap(pidfd)
    finally:
        os.close(pidfd)


def reap(pidfd: int) -> None:
    """Of a process that has ended, if it is a child of ours that still has to be. Most are the nursery's, which reaps
    them; those of a nursery that was killed are ours, those of an earlier executor somebody else's."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
