"""The client of the logstore's socket, against a socket that a test answers itself."""

import asyncio
import json
import os
import shutil
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest

from joblet.common import unixsock
from joblet.common.errors import Internal, Unavailable
from joblet.common.unixsock import Received
from joblet.executor.logs import LogStore
from joblet.executor.sparelogs import STOCK, SpareLogs
from joblet.executor.testing import JOB_ID, OTHER_ID

OPEN = {"op": "open", "job_id": JOB_ID}
PREPARE = {"op": "prepare", "count": STOCK}
TIMEOUT_SECONDS = 120.0  # nothing waits for it; a busy machine takes its time


class Answering:
    """The other end: accepts connections and answers requests when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = unixsock.bind(path)
        self.listener.setblocking(False)
        self.requests: list[dict[str, object]] = []

    async def accept(self) -> socket.socket:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return connection

    async def request(self, connection: socket.socket) -> dict[str, object]:
        request: dict[str, object] = json.loads(await asyncio.get_running_loop().sock_recv(connection, 4096))
        self.requests.append(request)
        return request

    def close(self) -> None:
        self.listener.close()


def answer(connection: socket.socket, fields: dict[str, object], fds: tuple[int, ...] = ()) -> None:
    unixsock.send(connection, json.dumps(fields).encode(), fds)


def open_descriptors() -> int:
    """All but those that grpc may have of earlier tests, and closes when it likes: TCP connections and events."""
    tables = "".join(table.read_text() for table in Path("/proc/net").glob("tcp*"))
    grpcs = {f"socket:[{line.split()[9]}]" for line in tables.splitlines()}
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            name = str(descriptor.readlink())
            count += not name.startswith("anon_inode:") and name not in grpcs
    return count


async def stocked(other: Answering, logs: LogStore, directory: Path) -> socket.socket:
    """The connection of a client that has all the spares it wants, in `directory`, numbered."""
    logs.refill()
    connection = await other.accept()
    assert await other.request(connection) == PREPARE
    names = [f"spare-{number:016d}" for number in range(STOCK)]
    fds = []
    for name in names:
        (directory / name).mkdir()
        fds += [os.open(directory / name / file, os.O_WRONLY | os.O_CREAT) for file in ("output", "index")]
    answer(connection, {"ok": True, "spares": names}, tuple(fds))
    for fd in fds:
        os.close(fd)
    await settled(other, logs, connection)
    return connection


async def settled(other: Answering, logs: LogStore, connection: socket.socket) -> None:
    """Everything that was answered before has been looked at: what is asked later is answered later."""
    size = asyncio.ensure_future(logs.size(OTHER_ID))
    await other.request(connection)
    answer(connection, {"ok": True, "bytes": 5})
    assert await size == 5


def naming(number: int, job_id: str = JOB_ID) -> dict[str, object]:
    return {"op": "name", "spare": f"spare-{number:016d}", "job_id": job_id}


def test_files_are_handed_over_and_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
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
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
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
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
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
        with closing(LogStore(tmp_path / "s", TIMEOUT_SECONDS)) as logs:
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
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
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


def test_a_job_gets_a_spare_at_once_and_the_spare_the_jobs_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = open_descriptors()
        with (
            closing(Answering(tmp_path / "s")) as other,
            closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs,
            await stocked(other, logs, tmp_path) as connection,
            closing(logs.opening(JOB_ID)) as opening,
        ):
            files = await opening.files()  # nobody has answered
            os.write(files.output, b"bytes")
            named = asyncio.ensure_future(files.named())
            assert await other.request(connection) == naming(0)
            assert not named.done()
            answer(connection, {"ok": True})
            await named
            await files.named()  # as often as one wants
            assert await files.gets_name()
        assert (tmp_path / "spare-0000000000000000/output").read_bytes() == b"bytes"
        assert open_descriptors() == before

    asyncio.run(scenario())


def test_the_stock_is_filled_when_half_of_it_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            closing(Answering(tmp_path / "s")) as other,
            closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs,
            await stocked(other, logs, tmp_path) as connection,
        ):
            for number in range(STOCK // 2):
                logs.refill()  # after each launch; there is enough until now
                logs.opening(JOB_ID).close()
                assert await other.request(connection) == naming(number)
                answer(connection, {"ok": True})
            logs.refill()
            logs.refill()
            assert await other.request(connection) == {"op": "prepare", "count": STOCK // 2}
            answer(connection, {"ok": False, "error": "disk full"})
            for number in range(STOCK // 2, STOCK):
                logs.opening(JOB_ID).close()
                assert await other.request(connection) == naming(number)
            logs.opening(JOB_ID).close()
            assert await other.request(connection) == OPEN  # none is left: the log is asked for

    asyncio.run(scenario())


def test_a_name_is_asked_for_again_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(Answering(tmp_path / "s")) as other, closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
            connection = await stocked(other, logs, tmp_path)
            with closing(logs.opening(JOB_ID)) as opening:
                files = await opening.files()
                assert await other.request(connection) == naming(0)
                connection.close()  # without an answer
                named = asyncio.ensure_future(files.named())
                with await other.accept() as connection:
                    assert await other.request(connection) == naming(0)
                    answer(connection, {"ok": True})
                    await named

    asyncio.run(scenario())


def test_spares_are_not_used_while_the_logstore_is_away_and_dropped_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is refused then, and its gateway may order it again; one that has been accepted would fail. The next
    logstore may have another directory."""

    async def scenario() -> None:
        with closing(LogStore(tmp_path / "s", TIMEOUT_SECONDS)) as logs:
            before = open_descriptors()
            with closing(Answering(tmp_path / "s")) as other:
                (await stocked(other, logs, tmp_path)).close()
            (tmp_path / "s").unlink()
            with monkeypatch.context() as patch:
                patch.setattr(logs, "_timeout_seconds", 0.1)
                for _ in range(2):  # before the client sees the end of the connection, and after
                    with closing(logs.opening(JOB_ID)) as opening, pytest.raises(Unavailable):
                        await opening.files()
            assert open_descriptors() == before
            with closing(Answering(tmp_path / "s")) as other:
                asked = asyncio.ensure_future(logs.size(JOB_ID))
                with await other.accept() as connection:
                    await other.request(connection)
                    answer(connection, {"ok": True, "bytes": 0})
                    await asked
                    logs.opening(JOB_ID).close()
                    assert await other.request(connection) == OPEN

    asyncio.run(scenario())


def test_a_spare_that_somebody_removed_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            closing(Answering(tmp_path / "s")) as other,
            closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs,
            await stocked(other, logs, tmp_path) as connection,
        ):
            for number in range(2):
                shutil.rmtree(tmp_path / str(naming(number)["spare"]))
            before = open_descriptors()
            logs.opening(JOB_ID).close()
            assert await other.request(connection) == naming(2)
            assert open_descriptors() == before - 6

    asyncio.run(scenario())


def test_a_name_that_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            closing(Answering(tmp_path / "s")) as other,
            closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs,
            await stocked(other, logs, tmp_path) as connection,
            closing(logs.opening(JOB_ID)) as opening,
        ):
            files = await opening.files()
            await other.request(connection)
            answer(connection, {"ok": False, "error": "disk full"})
            text = f"the logstore could not name the log of job {JOB_ID}: disk full"
            for _ in range(2):
                with pytest.raises(Internal, match=text):
                    await files.named()
            assert not await files.gets_name()

    asyncio.run(scenario())


def test_waiting_for_a_name_can_be_given_up_and_taken_up_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (
            closing(Answering(tmp_path / "s")) as other,
            closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs,
            await stocked(other, logs, tmp_path) as connection,
            closing(logs.opening(JOB_ID)) as opening,
        ):
            files = await opening.files()
            await other.request(connection)
            given_up = asyncio.ensure_future(files.named())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
            again = asyncio.ensure_future(files.named())
            assert await other.request(connection) == naming(0)
            answer(connection, {"ok": True})
            answer(connection, {"ok": True})
            await again

    asyncio.run(scenario())


@pytest.mark.parametrize("answered_first", [True, False])
def test_spares_that_come_when_nobody_wants_them_any_more_are_given_back(tmp_path: Path, answered_first: bool) -> None:
    async def scenario() -> None:
        before = open_descriptors()
        with closing(Answering(tmp_path / "s")) as other:
            with closing(LogStore(other.path, TIMEOUT_SECONDS)) as logs:
                logs.refill()
                with await other.accept() as connection:
                    assert await other.request(connection) == PREPARE
                    null = os.open(os.devnull, os.O_RDWR)
                    if answered_first:
                        answer(connection, {"ok": True, "spares": ["spare"] * STOCK}, (null,) * (2 * STOCK))
                        while open_descriptors() < before + 2 * STOCK:  # received, and perhaps not yet looked at
                            await asyncio.sleep(0)
                    logs.close()
                    os.close(null)
            await asyncio.sleep(0)
        assert open_descriptors() == before

    asyncio.run(scenario())


def test_spares_are_given_back_whose_connection_goes_before_they_are_looked_at() -> None:
    async def scenario() -> None:
        answer: asyncio.Future[Received] = asyncio.get_running_loop().create_future()
        asked = asyncio.Event()

        def send(_: object) -> asyncio.Future[Received]:
            asked.set()
            return answer

        before = open_descriptors()
        spares = SpareLogs(send)
        spares.refill()
        await asked.wait()
        answer.set_result(
            Received(
                json.dumps({"ok": True, "spares": ["spare"] * STOCK}).encode(),
                tuple(os.open(os.devnull, os.O_RDWR) for _ in range(2 * STOCK)),
                None,
            )
        )
        spares.drop()
        await asyncio.sleep(0)
        assert (spares.take(), open_descriptors()) == (None, before)

    asyncio.run(scenario())
