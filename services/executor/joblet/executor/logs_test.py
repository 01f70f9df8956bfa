"""The client of the logstore's socket, against a socket that a test answers itself."""

import asyncio
import json
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from joblet.common import unixsock
from joblet.common.errors import Internal, Unavailable
from joblet.executor.logs import LogStore
from joblet.executor.testing import JOB_ID, OTHER_ID


class Answering:
    """The other end: accepts connections and answers requests when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = unixsock.bind(path)
        self.listener.setblocking(False)
        self.requests: list[dict[str, str]] = []

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return connection

    async def request(self, connection: socket.socket) -> dict[str, str]:
        request: dict[str, str] = json.loads(await asyncio.get_running_loop().sock_recv(connection, 4096))
        self.requests.append(request)
        return request

    def close(self) -> None:
        self.listener.close()


def answer(connection: socket.socket, fields: dict[str, object], fds: tuple[int, ...] = ()) -> None:
    unixsock.send(connection, json.dumps(fields).encode(), fds)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_handed_over_and_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path)) as logs:
            opening = logs.opening(JOB_ID)
            connection = await other.accept()
            with connection:
                assert await other.request(connection) == {"op": "open", "job_id": JOB_ID}
                before = open_descriptors()
                with (tmp_path / "output").open("wb") as output, (tmp_path / "index").open("ab") as index:
                    answer(connection, {"ok": True}, (output.fileno(), index.fileno()))
                with closing(opening):
                    files = await opening.files()
                    os.write(files.output, b"bytes")
                    assert not os.get_inheritable(files.output)
                assert open_descriptors() == before
        assert (tmp_path / "output").read_bytes() == b"bytes"

    asyncio.run(scenario())


@pytest.mark.parametrize("answered_first", [True, False])
def test_files_that_nobody_waits_for_any_more_are_closed(tmp_path: Path, answered_first: bool) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path)) as logs:
            opening = logs.opening(JOB_ID)
            with await other.accept() as connection:
                await other.request(connection)
                before = open_descriptors()
                null = os.open(os.devnull, os.O_RDWR)
                if not answered_first:
                    opening.close()
                answer(connection, {"ok": True}, (null, null))
                os.close(null)
                # A later request is answered after it: then the first answer has been read.
                size = asyncio.ensure_future(logs.size(JOB_ID))
                await other.request(connection)
                answer(connection, {"ok": True, "bytes": 5})
                assert await size == 5
                if answered_first:
                    opening.close()
                assert open_descriptors() == before

    asyncio.run(scenario())


def test_answers_come_in_the_order_of_requests(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path)) as logs:
            asked = [asyncio.ensure_future(logs.size(JOB_ID)), asyncio.ensure_future(logs.finish(OTHER_ID))]
            with await other.accept() as connection:
                first, second = await other.request(connection), await other.request(connection)
                assert [(first["op"], first["job_id"]), (second["op"], second["job_id"])] == [
                    ("size", JOB_ID), ("finish", OTHER_ID),
                ]  # fmt: skip
                answer(connection, {"ok": True, "bytes": 1})
                answer(connection, {"ok": True, "bytes": 2})
                assert await asyncio.gather(*asked) == [1, 2]

    asyncio.run(scenario())


def test_a_restarted_logstore_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(LogStore(tmp_path / "s")) as logs:
            size = asyncio.ensure_future(logs.size(JOB_ID))  # nobody listens yet
            await asyncio.sleep(0)
            with closing(Answering(tmp_path / "s")) as other:
                with await other.accept() as connection:
                    await other.request(connection)  # it ends without having answered
                with await other.accept() as connection:
                    await other.request(connection)
                    answer(connection, {"ok": True, "bytes": 9})
                    assert await size == 9
            assert [request["op"] for request in other.requests] == ["size", "size"]

    asyncio.run(scenario())


def test_a_logstore_that_stays_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(LogStore(tmp_path / "s", timeout_seconds=0.1)) as logs:
            with pytest.raises(Unavailable, match="no such file or directory") as failure:
                await logs.size(JOB_ID)
            assert failure.value.hint is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "fds", "text"),
    [
        ({"ok": False, "error": "disk full"}, 0, "disk full"),
        ({"ok": True}, 1, "1 descriptors instead of 2"),
        ({"ok": False}, 2, "2 descriptors instead of 2"),
    ],
)
def test_refusals(tmp_path: Path, fields: dict[str, object], fds: int, text: str) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path)) as logs:
            opening = logs.opening(JOB_ID)
            with await other.accept() as connection:
                await other.request(connection)
                before = open_descriptors()
                null = os.open(os.devnull, os.O_RDWR)
                answer(connection, fields, (null,) * fds)
                os.close(null)
                with closing(opening), pytest.raises(Internal, match=text):
                    await opening.files()
                assert open_descriptors() == before

    asyncio.run(scenario())
