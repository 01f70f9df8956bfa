import asyncio
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from joblet.api.job_pb2 import DataChunk
from joblet.common.errors import Internal, OutOfRange, Unavailable
from joblet.logstore.chunk import CHUNK_SIZE
from joblet.logstore.follow import follow
from joblet.logstore.index import Entry, Kind, append, encode
from joblet.logstore.inotify import Inotify
from joblet.logstore.layout import LogDirectory, LogFiles
from joblet.logstore.output import open_log
from joblet.logstore.readers import Reader
from joblet.logstore.selection import Selection

JOB = "6f2d1c1e-8f0a-4a53-9a0c-6f0d1f1b2c3d"
WRITER = Path(__file__).parent / "testdata" / "writer.py"
TIMEOUT_SECONDS = 240.0
FROM_THE_START = Selection()
NOW = Selection(follow=False)


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[LogDirectory]:
    with closing(LogDirectory(tmp_path / "logs")) as logs:
        yield logs


@contextmanager
def writing(logs: LogDirectory, job_id: str = JOB) -> Iterator[LogFiles]:
    with closing(logs.open_for_writing(job_id)) as files:
        yield files


def index(files: LogFiles, total: int, kind: Kind) -> None:
    append(files.index, encode(Entry(total, 1, kind)))


@asynccontextmanager
async def watching() -> AsyncIterator[Inotify]:
    with closing(Inotify()) as inotify:
        yield inotify
        assert inotify.watches == 0


@asynccontextmanager
async def following(
    logs: LogDirectory, inotify: Inotify, selection: Selection = FROM_THE_START
) -> AsyncIterator[AsyncGenerator[DataChunk, None]]:
    async def parsed() -> AsyncGenerator[DataChunk, None]:
        async with aclosing(follow(files, inotify, Reader(), selection)) as chunks:
            async for chunk in chunks:
                message = DataChunk.FromString(chunk.message)
                assert len(message.payload) == chunk.payload_bytes > 0
                yield message

    with closing(open_log(logs.open_for_reading(JOB))) as files:
        async with aclosing(parsed()) as chunks:
            yield chunks


async def read(logs: LogDirectory, inotify: Inotify, selection: Selection = FROM_THE_START) -> bytes:
    """All of it; checks that the chunks join without a gap."""
    received = bytearray()
    async with asyncio.timeout(TIMEOUT_SECONDS), following(logs, inotify, selection) as chunks:
        async for chunk in chunks:
            assert chunk.offset == selection.offset + len(received)
            received += chunk.payload
    return bytes(received)


def test_empty_output_ends(logs: LogDirectory) -> None:
    async def main() -> None:
        with writing(logs) as files:
            index(files, 0, Kind.END)
        async with watching() as inotify:
            assert await read(logs, inotify) == b""

    asyncio.run(main())


def test_any_bytes_from_any_offset(logs: LogDirectory) -> None:
    content = bytes(range(256)) * 5000

    async def main() -> None:
        with writing(logs) as files:
            os.write(files.output, content)
            index(files, len(content), Kind.END)
        async with watching() as inotify:
            for offset in (0, 1, 255, CHUNK_SIZE - 1, CHUNK_SIZE, len(content) - 1, len(content)):
                assert await read(logs, inotify, Selection(offset)) == content[offset:]

    asyncio.run(main())


@pytest.mark.parametrize(
    "selection", [FROM_THE_START, Selection(timestamps=True), Selection(since_ns=time.time_ns() + 10**15)]
)
def test_a_reader_of_a_log_that_is_made_anew_is_told(logs: LogDirectory, selection: Selection) -> None:
    async def main() -> None:
        async with watching() as inotify, asyncio.timeout(TIMEOUT_SECONDS):
            with writing(logs), closing(logs.spares.make()) as spare:
                async with following(logs, inotify, selection) as chunks:
                    first = asyncio.ensure_future(anext(chunks))
                    while not inotify.watches:
                        await asyncio.sleep(0)
                    logs.name_spare(spare.name, JOB)
                    with pytest.raises(Unavailable, match="the log was made anew"):
                        await first
                os.write(spare.output, b"hello")
                append(spare.index, encode(Entry(5, 1, Kind.END)))
            assert await read(logs, inotify) == b"hello"

    asyncio.run(main())


def test_a_reader_of_a_log_that_ends_and_is_deleted_gets_all_of_it(logs: LogDirectory) -> None:
    async def main() -> None:
        async with watching() as inotify, asyncio.timeout(TIMEOUT_SECONDS):
            with writing(logs) as files:
                async with following(logs, inotify) as chunks:
                    first = asyncio.ensure_future(anext(chunks))
                    while not inotify.watches:
                        await asyncio.sleep(0)
                    os.write(files.output, b"hello")
                    index(files, 5, Kind.END)
                    logs.delete(JOB)
                    assert (await first).payload == b"hello"
                    assert [chunk async for chunk in chunks] == []

    asyncio.run(main())


def test_a_follower_gets_what_comes_and_ends_with_the_output(logs: LogDirectory) -> None:
    async def main() -> None:
        async with watching() as inotify, asyncio.timeout(TIMEOUT_SECONDS):
            with writing(logs) as files:
                async with following(logs, inotify) as chunks:
                    for number in range(20):
                        os.write(files.output, b"%d" % number)
                        index(files, os.fstat(files.output).st_size, Kind.DATA)
                        assert (await anext(chunks)).payload == b"%d" % number
                    index(files, os.fstat(files.output).st_size, Kind.END)
                    with pytest.raises(StopAsyncIteration):
                        await anext(chunks)

    asyncio.run(main())


def test_without_following_it_is_what_was_there(logs: LogDirectory) -> None:
    async def main() -> None:
        with writing(logs) as files:
            async with watching() as inotify:
                assert await read(logs, inotify, NOW) == b""
                os.write(files.output, b"hello")
                assert await read(logs, inotify, NOW) == b"hello"
                assert await read(logs, inotify, Selection(7, follow=False)) == b""

    asyncio.run(main())


def test_an_offset_beyond_the_end_is_refused_once_there_is_an_end(logs: LogDirectory) -> None:
    async def main() -> None:
        with writing(logs) as files:
            async with watching() as inotify:
                follower = asyncio.create_task(read(logs, inotify, Selection(6)))
                os.write(files.output, b"hello")
                index(files, 5, Kind.END)
                for attempt in (
                    follower,
                    read(logs, inotify, Selection(6)),
                    read(logs, inotify, Selection(6, follow=False)),
                ):
                    with pytest.raises(OutOfRange, match=r"offset 6 is beyond the end of the output \(5 bytes\)"):
                        await attempt

    asyncio.run(main())


def test_missing_bytes_are_an_error_after_those_that_are_there(logs: LogDirectory) -> None:
    async def main() -> None:
        with writing(logs) as files:
            os.write(files.output, b"hello")
            index(files, 9, Kind.END)
        async with watching() as inotify, following(logs, inotify) as chunks:
            assert (await anext(chunks)).payload == b"hello"
            with pytest.raises(Internal, match="4 bytes at the end of the output are missing on disk"):
                await anext(chunks)

    asyncio.run(main())


def test_a_torn_tail_of_the_index_is_not_an_end(logs: LogDirectory) -> None:
    async def main() -> None:
        async with watching() as inotify:
            with writing(logs) as files:
                os.write(files.output, b"hello")
                os.write(files.index, encode(Entry(5, 1, Kind.END))[:-1])
                follower = asyncio.create_task(read(logs, inotify))
                assert await read(logs, inotify, NOW) == b"hello"
                assert not follower.done()
            assert logs.finish(JOB) == 5
            assert await follower == b"hello"

    asyncio.run(main())


def test_a_stop_of_the_service_ends_followers_with_unavailable(logs: LogDirectory) -> None:
    async def main() -> None:
        with writing(logs) as files:
            os.write(files.output, b"hello")
            async with watching() as inotify, following(logs, inotify) as chunks:
                await anext(chunks)
                inotify.stop()
                with pytest.raises(Unavailable):
                    await anext(chunks)

    asyncio.run(main())


def test_sixteen_followers_joining_at_random_get_every_byte(logs: LogDirectory) -> None:
    """20 MB of random bytes, spliced by another process in pieces of random size while the followers come."""
    content = random.Random(1).randbytes(20_000_000)
    joins = random.Random(2)

    async def main() -> None:
        with writing(logs) as files:
            process = start_writer(files)
        feeder = threading.Thread(target=feed, args=(process, content))
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), watching() as inotify, asyncio.TaskGroup() as group:
                followers: list[asyncio.Task[bytes]] = []
                feeder.start()
                joining = sorted(joins.randrange(len(content)) for _ in range(15))
                async with following(logs, inotify) as chunks:
                    async for chunk in chunks:
                        while joining and chunk.offset >= joining[0]:
                            joining.pop(0)
                            followers.append(group.create_task(read(logs, inotify)))
                followers += [group.create_task(read(logs, inotify)) for _ in range(1 + len(joining))]
                digests = {hashlib.sha256(await follower).hexdigest() for follower in followers}
            assert len(followers) == 16
            assert digests == {hashlib.sha256(content).hexdigest()}
        finally:
            process.kill()
            process.wait()
            feeder.join()

    asyncio.run(main())


def start_writer(files: LogFiles) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", str(WRITER), str(files.output), str(files.index)],
        stdin=subprocess.PIPE,
        pass_fds=(files.output, files.index),
    )


def feed(process: subprocess.Popen[bytes], content: bytes) -> None:
    sizes = random.Random(3)
    assert process.stdin is not None
    with process.stdin:
        position = 0
        while position < len(content):
            size = sizes.choice((1, 100, 4096, 65536, 200_000))
            process.stdin.write(content[position : position + size])
            position += size
