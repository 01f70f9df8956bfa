import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from joblet.common import framed

TIMEOUT_SECONDS = 120.0


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    sender, receiver = framed.pair()
    with sender, receiver:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            yield sender, receiver


async def all_of(receiver: socket.socket) -> list[bytes]:
    source, received = framed.Receiver(receiver), []
    while (message := await source.receive()) is not None:
        received.append(message)
    return received


def test_messages_arrive_whole_and_in_order() -> None:
    sizes = [0, 1, 3, 4, 5, 0, 4096, framed.LARGEST_BYTES, 300_000, 2]
    messages = [random.Random(size).randbytes(size) for size in sizes]

    async def main() -> None:
        async with ends() as (sender, receiver):
            receiving = asyncio.create_task(all_of(receiver))
            for message in messages:
                await framed.send(sender, message)
            sender.close()
            assert await receiving == messages

    asyncio.run(main())


def test_what_was_sent_before_the_end_is_still_received() -> None:
    async def main() -> None:
        async with ends() as (sender, receiver):
            await framed.send(sender, b"last words")
            sender.close()
            receiver.shutdown(socket.SHUT_RD)
            assert await all_of(receiver) == [b"last words"]

    asyncio.run(main())


def test_shutting_down_ends_a_wait_for_more() -> None:
    async def main() -> None:
        async with ends() as (_, receiver):
            waiting = asyncio.create_task(all_of(receiver))
            await asyncio.sleep(0)
            receiver.shutdown(socket.SHUT_RD)
            assert await waiting == []

    asyncio.run(main())


def test_a_cut_at_any_byte_but_between_messages_is_an_error() -> None:
    stream = b"\0\0\0\3one\0\0\0\0\0\0\0\5three"

    async def main(cut: int) -> list[bytes]:
        async with ends() as (sender, receiver):
            sender.sendall(stream[:cut])
            sender.close()
            return await all_of(receiver)

    whole = {0: [], 7: [b"one"], 11: [b"one", b""], len(stream): [b"one", b"", b"three"]}
    for cut in range(len(stream) + 1):
        if cut in whole:
            assert asyncio.run(main(cut)) == whole[cut]
        else:
            with pytest.raises(ConnectionResetError):
                asyncio.run(main(cut))


def test_a_length_beyond_the_limit_takes_no_memory() -> None:
    async def main() -> None:
        async with ends() as (sender, receiver):
            sender.sendall((framed.LARGEST_BYTES + 1).to_bytes(4, "big"))
            with pytest.raises(ConnectionResetError, match="no length"):
                await framed.Receiver(receiver).receive()

    asyncio.run(main())


def test_the_sender_waits_for_a_receiver_that_takes_nothing_and_hears_that_it_is_gone() -> None:
    async def main() -> None:
        async with ends() as (sender, receiver):
            sending = asyncio.create_task(framed.send(sender, bytes(framed.LARGEST_BYTES)))
            done, _ = await asyncio.wait([sending], timeout=0.1)
            assert not done
            receiver.close()
            with pytest.raises(OSError, match="Broken pipe|Connection reset"):
                await sending

    asyncio.run(main())


@asynccontextmanager
async def lines() -> AsyncIterator[tuple[framed.Line, framed.Line, socket.socket]]:
    """Two ends as Lines, and the socket of the first."""
    async with ends() as (one, other):
        first, second = await framed.Line.over(one.dup()), await framed.Line.over(other.dup())
        other.close()
        try:
            yield first, second, one
        finally:
            first.close()
            second.close()


async def rest(line: framed.Line) -> list[bytes]:
    received = []
    while (message := await line.read()) is not None:
        received.append(message)
    return received


def test_a_line_carries_messages_of_any_size_both_ways_at_once() -> None:
    sizes = [0, 1, 4, 300_000, 0, framed.LARGEST_BYTES, 2]
    messages = [random.Random(size).randbytes(size) for size in sizes]

    async def main() -> None:
        async def all_read(line: framed.Line) -> bool:
            return [await line.read() for _ in messages] == messages

        async with lines() as (first, second, one):
            reading = [asyncio.create_task(all_read(line)) for line in (first, second)]
            for message in messages:
                await asyncio.gather(first.write(message), second.write(message))
            assert [await read for read in reading] == [True, True]
            one.close()
            first.close()
            assert await second.read() is None

    asyncio.run(main())


def test_what_a_line_was_sent_is_read_before_its_end() -> None:
    async def main() -> None:
        async with lines() as (first, second, _):
            await first.write(b"last")
            await first.write(b"words")
            second.expect_no_more()
            assert await rest(second) == [b"last", b"words"]
            second.close()
            second.expect_no_more()

    asyncio.run(main())


@pytest.mark.parametrize("sent", [b"\0\0", b"\0\0\0\4", b"\0\0\0\3ab", b"\xff\xff\xff\xffab"])
def test_a_line_takes_nothing_cut_short_for_an_end(sent: bytes) -> None:
    async def main() -> None:
        async with lines() as (_, second, one):
            one.send(sent)
            one.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionResetError):
                await second.read()

    asyncio.run(main())


def test_writing_to_nobody_fails() -> None:
    async def main() -> None:
        async with lines() as (first, second, _):
            second.close()
            with pytest.raises(ConnectionError):
                while True:
                    await first.write(b"x" * 1000)
                    await asyncio.sleep(0)

    asyncio.run(main())
