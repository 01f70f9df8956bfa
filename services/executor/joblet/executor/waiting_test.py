import asyncio
import os

import pytest

from joblet.executor.waiting import readable


def test_a_descriptor_is_waited_for_until_it_is_readable_or_time_is_up() -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        assert not await readable(reading, 0.001)
        waiting = asyncio.ensure_future(readable(reading))
        await asyncio.sleep(0)
        os.write(writing, b"x")
        assert await waiting
        assert await readable(reading, 60)
        assert not asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    asyncio.run(scenario())


@pytest.mark.parametrize("seconds", [None, 60])
def test_who_gives_up_waiting_leaves_nothing_in_the_loop(seconds: float | None) -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        waiting = asyncio.ensure_future(readable(reading, seconds))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert not asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    asyncio.run(scenario())
