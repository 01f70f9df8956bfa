"""Waiting in the event loop for a descriptor, such as a pidfd: readable once its process has ended, pidfd_open(2)."""

import asyncio


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
