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
