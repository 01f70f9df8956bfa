"""What a reader selects, on real files: lines from the end, times by the index, and both together."""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path

import pytest

from joblet.api.internal.logstore_pb2 import ReadLogsRequest
from joblet.api.job_pb2 import DataChunk
from joblet.common.errors import InvalidArgument
from joblet.logstore import beginning, selection, timed
from joblet.logstore import watched as watched_module
from joblet.logstore.beginning import Beginning
from joblet.logstore.follow import follow
from joblet.logstore.index import ENTRIES_AT_ONCE, Entry, Kind, append, encode
from joblet.logstore.inotify import Inotify
from joblet.logstore.layout import LogDirectory, LogFiles
from joblet.logstore.output import OpenLog, open_log
from joblet.logstore.readers import Reader
from joblet.logstore.selection import Selection
from joblet.logstore.watched import watched

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
TIMEOUT_SECONDS = 240.0
SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


class Log:
    """A log that is written by the test, and what readers of it get."""

    def __init__(self, files: LogFiles, reading: OpenLog, inotify: Inotify) -> None:
        self.files = files
        self.reading = reading
        self.inotify = inotify

    def write(self, payload: bytes, time_ns: int | None, kind: Kind = Kind.DATA) -> None:
        """With its entry in the index, or with none."""
        os.write(self.files.output, payload)
        if time_ns is not None:
            append(self.files.index, encode(Entry(os.fstat(self.files.output).st_size, time_ns, kind)))

    async def beginning(self, **wanted: object) -> Beginning:
        with watched(self.reading, self.inotify, Reader()) as log:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await beginning.beginning(log, Selection(**wanted))  # type: ignore[arg-type]

    @asynccontextmanager
    async def chunks(self, **wanted: object) -> AsyncIterator[AsyncGenerator[DataChunk, None]]:
        async def parsed() -> AsyncGenerator[DataChunk, None]:
            async with aclosing(follow(self.reading, self.inotify, Reader(), Selection(**wanted))) as chunks:  # type: ignore[arg-type]
                async for chunk in chunks:
                    yield DataChunk.FromString(chunk.message)

        async with aclosing(parsed()) as chunks, asyncio.timeout(TIMEOUT_SECONDS):
            yield chunks

    async def read(self, **wanted: object) -> bytes:
        """All of it; the chunks must join."""
        received, position = bytearray(), None
        async with self.chunks(**wanted) as chunks:
            async for chunk in chunks:
                assert position in (None, chunk.offset)
                received += chunk.payload
                position = chunk.offset + len(chunk.payload)
        return bytes(received)

    async def times(self, **wanted: object) -> list[tuple[bytes, int]]:
        """Every stretch of output with its time, joined over chunks."""
        stretches: list[tuple[bytes, int]] = []
        async with self.chunks(timestamps=True, **wanted) as chunks:
            async for chunk in chunks:
                begins = [entry.position for entry in chunk.times]
                assert begins[:1] == [0][: len(chunk.payload)]
                for entry, end in zip(chunk.times, [*begins[1:], len(chunk.payload)], strict=True):
                    time_ns = entry.time.seconds * SECOND + entry.time.nanos
                    text = chunk.payload[entry.position : end]
                    if stretches and stretches[-1][1] == time_ns:
                        text = stretches.pop()[0] + text
                    stretches.append((text, time_ns))
        return stretches


class Clock:
    """In place of `time`: goes only when it is set."""

    def __init__(self) -> None:
        self.now_ns = T0
        self._looks = 0

    def time_ns(self) -> int:
        self._looks += 1
        return self.now_ns

    async def seen(self) -> None:
        """Waits until it has been looked at once more by someone who had to wait after the last look."""
        for _ in range(2):
            looks = self._looks
            while self._looks == looks:
                await asyncio.sleep(0)


@pytest.fixture
def on_a_log(tmp_path: Path) -> Iterator[Callable[[Callable[[Log], object]], None]]:
    """Runs a scenario on an empty log."""

    async def main(scenario: Callable[[Log], object]) -> None:
        with (
            closing(LogDirectory(tmp_path / "logs")) as logs,
            closing(logs.open_for_writing(JOB)) as files,
            closing(open_log(logs.open_for_reading(JOB))) as reading,
            closing(Inotify()) as inotify,
        ):
            result = scenario(Log(files, reading, inotify))
            assert asyncio.iscoroutine(result)
            await result
            assert inotify.watches == 0

    yield lambda scenario: asyncio.run(main(scenario))


OnALog = Callable[[Callable[[Log], object]], None]


def test_requests_are_checked_by_name() -> None:
    for wrong, text in (
        (ReadLogsRequest(offset=-1), "offset must not be negative, got -1"),
        (ReadLogsRequest(tail_lines=-1), "tail_lines must not be negative, got -1"),
        (ReadLogsRequest(offset=1, since_ns=1), "offset excludes tail_lines and since_ns"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            selection.parse(wrong)
    assert selection.parse(ReadLogsRequest(tail_lines=0, since_ns=0, no_follow=True)) == Selection(
        tail_lines=0, since_ns=0, follow=False
    )


def test_the_last_lines_wherever_blocks_are_cut(on_a_log: OnALog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "BLOCK_SIZE", 7)
    sizes = random.Random(1)

    async def scenario(log: Log) -> None:
        content = b""
        for number in range(60):
            line = b"x" * sizes.choice((0, 1, 5, 6, 7, 8, 20)) + b"\n" * (number != 59)
            content += line
            log.write(line, T0 + number)
            lines = content.splitlines(keepends=True)
            for count in (0, 1, 2, 10, number + 1, number + 2):
                wanted = b"".join(lines[len(lines) - count :] if count <= len(lines) else lines)
                assert await log.read(tail_lines=count, follow=False) == wanted

    on_a_log(scenario)


def test_lines_are_counted_up_to_those_wanted(on_a_log: OnALog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "BLOCK_SIZE", 3)

    async def scenario(log: Log) -> None:
        found = await log.beginning(tail_lines=5)
        assert (found.offset, found.lines) == (0, 0)
        for content, lines in ((b"one\n", 1), (b"\n", 2), (b"three", 3), (b"\n", 3), (b"four\n", 4)):
            log.write(content, T0 + lines)
            for wanted in range(7):
                found = await log.beginning(tail_lines=wanted)
                assert found.lines == min(wanted, lines)
                assert (found.offset == 0) == (wanted >= lines)

    on_a_log(scenario)


def test_whether_the_time_asked_for_has_come(on_a_log: OnALog) -> None:
    async def scenario(log: Log) -> None:
        log.write(b"one\n", T0)
        log.write(b"two\n", T0 + SECOND)
        for since_ns, offset in ((T0, 0), (T0 + 1, 4), (T0 + SECOND + 1, 8)):
            assert await log.beginning(since_ns=since_ns) == Beginning(offset)
        future = time.time_ns() + 3600 * SECOND
        assert await log.beginning(since_ns=future, follow=False) == Beginning(8, reached=False)
        waiting = asyncio.ensure_future(log.beginning(since_ns=future))
        await asyncio.sleep(0)
        log.write(b"", T0 + 2 * SECOND, Kind.END)
        assert await waiting == Beginning(8, reached=False)

    on_a_log(scenario)


def test_the_last_lines_of_much_output_read_one_block(on_a_log: OnALog) -> None:
    """A gigabyte with a hole in place of its beginning: who read that would find no newline for long."""

    async def scenario(log: Log) -> None:
        os.truncate(log.files.output, 1 << 40)
        os.lseek(log.files.output, 1 << 40, os.SEEK_SET)
        log.write(b"\none\ntwo\n", T0)
        assert await log.read(tail_lines=2, follow=False) == b"one\ntwo\n"

    on_a_log(scenario)


def test_it_begins_with_the_last_lines_and_goes_on_live(on_a_log: OnALog) -> None:
    async def scenario(log: Log) -> None:
        log.write(b"one\ntwo\nthr", T0)
        async with log.chunks(tail_lines=1) as last, log.chunks(tail_lines=0) as none:
            assert await anext(last) == DataChunk(offset=8)
            assert await anext(none) == DataChunk(offset=11)
            log.write(b"ee\n", T0 + 1, Kind.END)
            assert [chunk.payload async for chunk in none] == [b"ee\n"]
            assert b"".join([chunk.payload async for chunk in last]) == b"three\n"

    on_a_log(scenario)


def test_since_and_until_tile_the_output(on_a_log: OnALog) -> None:
    """Windows that meet lose and repeat nothing."""

    async def scenario(log: Log) -> None:
        for second in range(100):
            log.write(b"%d\n" % second, T0 + second * SECOND, Kind.END if second == 99 else Kind.DATA)
        everything = await log.read()
        assert await log.read(since_ns=T0 + 98 * SECOND) == b"98\n99\n"
        assert await log.read(since_ns=T0 + 97 * SECOND + 1) == b"98\n99\n"
        assert await log.read(until_ns=T0 + 2 * SECOND) == b"0\n1\n"
        assert await log.read(until_ns=T0 + 2 * SECOND + 1) == b"0\n1\n2\n"
        assert await log.read(until_ns=T0) == await log.read(since_ns=T0 + 100 * SECOND) == b""
        assert await log.read(until_ns=T0 + 10 * SECOND, tail_lines=2) == b"8\n9\n"
        assert await log.read(since_ns=T0 + 98 * SECOND, tail_lines=5) == b"98\n99\n"
        assert await log.read(offset=len(everything) - 3, until_ns=T0 + 99 * SECOND) == b""
        edges = [0, *sorted(random.Random(2).randrange(T0, T0 + 100 * SECOND) for _ in range(20)), T0 + 200 * SECOND]
        windows = [await log.read(since_ns=since, until_ns=until) for since, until in pairwise(edges)]
        assert b"".join(windows) == everything

    on_a_log(scenario)


def test_times_that_have_not_come_are_waited_for(on_a_log: OnALog, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    for module in (beginning, timed, watched_module):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(watched_module, "LOOK_AGAIN_SECONDS", 0.001)  # this clock is set often
    soon, late = T0 + SECOND, T0 + 2 * SECOND

    async def scenario(log: Log) -> None:
        log.write(b"early\n", T0)
        async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
            window = group.create_task(log.read(since_ns=soon, until_ns=late))
            for _ in range(3):
                log.write(b"before\n", soon - 5)
                await clock.seen()
            clock.now_ns = soon
            await clock.seen()
            log.write(b"wanted\n", soon + 5)
            await clock.seen()
            log.write(b"also\n", late - 5)
            clock.now_ns = late
            await clock.seen()
            assert not window.done()  # an entry may still be on its way
            log.write(b"after\n", None)  # has no entry and gets a later one: it is not waited for
            clock.now_ns = late + timed.GRACE_NS
        assert await window == b"wanted\nalso\n"
        assert await log.read(since_ns=late + 100 * SECOND, follow=False) == b""
        assert await log.read(until_ns=late + 100 * SECOND, follow=False) == await log.read(follow=False)

    on_a_log(scenario)


def test_a_time_comes_without_anything_being_written(on_a_log: OnALog) -> None:
    async def scenario(log: Log) -> None:
        log.write(b"early\n", T0)
        assert await log.read(until_ns=time.time_ns() + SECOND // 5) == b"early\n"
        assert await log.beginning(since_ns=time.time_ns() + SECOND // 5) == Beginning(6)

    on_a_log(scenario)


def test_every_byte_has_the_time_of_its_entry(on_a_log: OnALog) -> None:
    sizes = random.Random(3)
    stretches = [
        (sizes.randbytes(sizes.choice((1, 2, 100, 300_000 if number % 500 == 0 else 3))), T0 + number * 10_000_000)
        for number in range(ENTRIES_AT_ONCE + 500)
    ]

    async def scenario(log: Log) -> None:
        for payload, time_ns in stretches:
            log.write(payload, time_ns)
        log.write(b"no entry yet", None)
        before = time.time_ns()
        *indexed, (rest, now) = await log.times(follow=False)
        assert indexed == stretches
        assert rest == b"no entry yet"
        assert before <= now <= time.time_ns()
        log.write(b"", T0 + 100 * SECOND, Kind.END)
        assert await log.times() == [*stretches, (b"no entry yet", T0 + 100 * SECOND)]
        assert await log.times(offset=len(b"".join(text for text, _ in stretches)) - 1) == [
            (stretches[-1][0][-1:], stretches[-1][1]),
            (b"no entry yet", T0 + 100 * SECOND),
        ]

    on_a_log(scenario)


def test_a_clock_that_was_set_back_loses_and_repeats_nothing(on_a_log: OnALog) -> None:
    async def scenario(log: Log) -> None:
        for number, time_ns in enumerate([T0, T0 + 5 * SECOND, T0 + 2 * SECOND, T0 + 9 * SECOND]):
            log.write(b"%d" % number, time_ns, Kind.END if number == 3 else Kind.DATA)
        assert await log.times() == [
            (b"0", T0), (b"1", T0 + 5 * SECOND), (b"2", T0 + 2 * SECOND), (b"3", T0 + 9 * SECOND),
        ]  # fmt: skip
        assert await log.read(since_ns=T0 + 9 * SECOND) == b"3"

    on_a_log(scenario)
