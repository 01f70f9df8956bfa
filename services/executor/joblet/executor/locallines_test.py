import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from joblet.common import framed, unixsock
from joblet.common.errors import StartError
from joblet.executor import locallines
from joblet.executor.locallines import NAME, TICKET_BYTES, LocalLines


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[LocalLines]:
    with closing(LocalLines(directory)) as lines:
        yield lines


def connected(directory: Path, stack: ExitStack, ticket: str) -> socket.socket:
    sock = stack.enter_context(unixsock.connect(directory / NAME, socket.SOCK_STREAM, timeout_seconds=120))
    unixsock.send(sock, ticket.encode())
    return sock


def new_ticket() -> str:
    return secrets.token_hex(TICKET_BYTES // 2)


def taken(lines: LocalLines, ticket: str, stack: ExitStack) -> socket.socket | None:
    sock = lines.take(ticket)
    return sock if sock is None else stack.enter_context(sock)


Scenario = Callable[[LocalLines, ExitStack], Awaitable[None]]


def run(directory: Path, scenario: Scenario) -> None:
    """With everything closed afterwards."""

    async def main() -> None:
        before = set(os.listdir("/proc/self/fd"))
        with ExitStack() as stack:
            async with served(directory) as lines:
                await scenario(lines, stack)
        assert set(os.listdir("/proc/self/fd")) <= before  # what others left open may be closed by now

    asyncio.run(main())


def test_each_ticket_gets_its_connection_once(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        tickets = [new_ticket() for _ in range(3)]
        clients = [connected(tmp_path, stack, ticket) for ticket in tickets]
        for ticket, client in reversed(list(zip(tickets, clients, strict=True))):
            sock = taken(lines, ticket, stack)
            assert sock is not None
            sock.send(b"for you")
            assert client.recv(100) == framed.EMPTY + b"for you"
            assert taken(lines, ticket, stack) is None

    run(tmp_path, scenario)


@pytest.mark.parametrize("sent", ["", "short", "x" * (TICKET_BYTES - 1)])
def test_a_ticket_that_nobody_sent_is_none(tmp_path: Path, sent: str) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        ticket = new_ticket()
        connected(tmp_path, stack, sent)
        connected(tmp_path, stack, ticket)
        for other in ("", sent, new_ticket(), "é" * TICKET_BYTES):
            assert taken(lines, other, stack) is None
        assert taken(lines, ticket, stack) is not None

    run(tmp_path, scenario)


def test_who_left_before_the_call_is_none(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        ticket = new_ticket()
        connected(tmp_path, stack, ticket).close()
        assert taken(lines, ticket, stack) is None

    run(tmp_path, scenario)


def test_connections_whose_calls_go_elsewhere_do_not_pile_up(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        ticket = new_ticket()
        connected(tmp_path, stack, ticket)
        for _ in range(1000):
            connected(tmp_path, stack, new_ticket()).close()
            await asyncio.sleep(0)
        assert taken(lines, ticket, stack) is not None

    run(tmp_path, scenario)


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locallines, "_MOST", 2)

    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        tickets = [new_ticket() for _ in range(3)]
        clients = [connected(tmp_path, stack, ticket) for ticket in tickets]
        assert [taken(lines, ticket, stack) is not None for ticket in tickets] == [False, True, True]
        with pytest.raises(ConnectionResetError):
            clients[0].recv(1)

    run(tmp_path, scenario)


def test_nobody_else_may_connect(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600

    run(tmp_path, scenario)


def test_one_executor_for_a_directory(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        with pytest.raises(StartError, match="address already in use"):
            LocalLines(tmp_path)

    run(tmp_path, scenario)


def test_a_socket_that_a_killed_executor_left_is_replaced(tmp_path: Path) -> None:
    async def scenario(lines: LocalLines, stack: ExitStack) -> None:
        connected(tmp_path, stack, new_ticket())

    for _ in range(2):
        run(tmp_path, scenario)
        assert (tmp_path / NAME).is_socket()
