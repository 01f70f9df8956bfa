import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from joblet.common import framed, unixsock
from joblet.common.errors import StartError
from joblet.executor import locallines
from joblet.executor.locallines import NAME, TICKET_BYTES, LocalLines


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[LocalLines]:
    before = set(os.listdir("/proc/self/fd"))
    with closing(LocalLines(tmp_path)) as made:
        yield made
    assert set(os.listdir("/proc/self/fd")) <= before  # what others left open may be closed by now


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(directory: Path, stack: ExitStack, ticket: str) -> socket.socket:
    sock = stack.enter_context(unixsock.connect(directory / NAME, socket.SOCK_STREAM, timeout_seconds=120))
    unixsock.send(sock, ticket.encode())
    return sock


def new_ticket() -> str:
    return secrets.token_hex(TICKET_BYTES // 2)


def taken(lines: LocalLines, ticket: str, stack: ExitStack) -> socket.socket | None:
    sock = lines.take(ticket)
    return sock if sock is None else stack.enter_context(sock)


def test_each_ticket_gets_its_connection_once(lines: LocalLines, tmp_path: Path, stack: ExitStack) -> None:
    tickets = [new_ticket() for _ in range(3)]
    clients = [connected(tmp_path, stack, ticket) for ticket in tickets]
    for ticket, client in reversed(list(zip(tickets, clients, strict=True))):
        sock = taken(lines, ticket, stack)
        assert sock is not None
        sock.send(b"for you")
        assert client.recv(100) == framed.EMPTY + b"for you"
        assert taken(lines, ticket, stack) is None


def test_a_ticket_that_nobody_sent_is_none(lines: LocalLines, tmp_path: Path, stack: ExitStack) -> None:
    ticket = new_ticket()
    connected(tmp_path, stack, ticket)
    for other in ("", new_ticket(), "é" * TICKET_BYTES):
        assert taken(lines, other, stack) is None
    assert taken(lines, ticket, stack) is not None


@pytest.mark.parametrize("sent", ["", "short", "x" * (TICKET_BYTES - 1)])
def test_a_connection_without_a_ticket_is_closed(
    lines: LocalLines, tmp_path: Path, stack: ExitStack, sent: str
) -> None:
    client = connected(tmp_path, stack, sent)
    assert taken(lines, sent, stack) is None
    assert client.recv(1) == b""


def test_who_left_before_the_call_is_none(lines: LocalLines, tmp_path: Path, stack: ExitStack) -> None:
    ticket = new_ticket()
    connected(tmp_path, stack, ticket).close()
    assert taken(lines, ticket, stack) is None


def test_the_oldest_go_when_there_are_too_many(
    lines: LocalLines, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locallines, "_MOST", 2)
    tickets = [new_ticket() for _ in range(3)]
    clients = [connected(tmp_path, stack, ticket) for ticket in tickets]
    assert [taken(lines, ticket, stack) is not None for ticket in tickets] == [False, True, True]
    assert clients[0].recv(1) == b""


def test_nobody_else_may_connect(lines: LocalLines, tmp_path: Path) -> None:
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_one_executor_for_a_directory(lines: LocalLines, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="address already in use"):
        LocalLines(tmp_path)


def test_a_socket_that_a_killed_executor_left_is_replaced(tmp_path: Path) -> None:
    with closing(LocalLines(tmp_path)):
        pass
    assert (tmp_path / NAME).is_socket()
    with closing(LocalLines(tmp_path)):
        pass
