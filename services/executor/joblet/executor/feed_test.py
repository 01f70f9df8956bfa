import asyncio
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from joblet.common.errors import OutOfRange
from joblet.executor.feed import Feed
from joblet.executor.journal import Journal
from joblet.executor.testing import INIT, JOB_ID, STARTED, outcome, record


def test_a_follower_gets_what_was_and_what_comes_each_once(tmp_path: Path) -> None:
    async def follow(feed: Feed, after: int, count: int) -> list[int]:
        numbers = []
        async with aclosing(feed.after(after)) as events:
            async for event in events:
                numbers.append(event.sequence)
                if len(numbers) == count:
                    break
        return numbers

    async def scenario(journal: Journal) -> None:
        feed = Feed(journal)
        journal.add(record())
        journal.parked(JOB_ID, INIT, STARTED)
        feed.started(JOB_ID, 1)
        async with asyncio.TaskGroup() as tasks:
            early = tasks.create_task(follow(feed, 0, 2))
            late = tasks.create_task(follow(feed, 1, 1))
            await asyncio.sleep(0)
            feed.ended(JOB_ID, outcome(), 2)
        assert early.result() == [1, 2]
        assert late.result() == [2]

    with closing(Journal(tmp_path / "journal.db")) as journal:
        asyncio.run(scenario(journal))


def test_following_from_an_event_that_does_not_exist(tmp_path: Path) -> None:
    async def scenario(journal: Journal) -> None:
        with pytest.raises(OutOfRange):
            await anext(Feed(journal).after(1))

    with closing(Journal(tmp_path / "journal.db")) as journal:
        asyncio.run(scenario(journal))
