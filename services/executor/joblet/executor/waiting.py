"""Waiting in the event loop for a descriptor: sockets, pidfds (readable once the process has ended, pidfd_open(2))."""

import asyncio


async def readable(fd: int) -> None:
    """Returns when `fd` is readable. Nobody else may wait for the same descriptor at the same time."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def arrived() -> None:
        loop.remove_reader(fd)  # at once: it would be told again before the task that waits has its turn
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, arrived)
    try:
        await ready
    except BaseException:
        loop.remove_reader(fd)
        raise
