"""Waiting in the event loop for a descriptor: sockets, pidfds (readable once the process has ended, pidfd_open(2))."""

import asyncio


async def readable(fd: int) -> None:
    """Returns when `fd` is readable. Nobody else may wait for the same descriptor at the same time."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    # The reader may fire once more before it is removed; a future takes a result only once.
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)
