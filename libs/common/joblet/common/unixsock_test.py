import array
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joblet.common import unixsock
from joblet.common.errors import StartError

OWN = unixsock.Credentials(os.getpid(), os.getuid(), os.getgid())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


def open_files() -> set[Path]:
    """The descriptor that lists them is gone again, and with it its link."""
    return {entry for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()}


@pytest.mark.parametrize("depth", [1, 20])
def test_paths_of_any_length(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["long-directory-name"] * depth)
    directory.mkdir(parents=True)
    path = directory / "control.sock"
    with closing(unixsock.bind(path)) as listener, closing(unixsock.connect(path)) as client:
        server, _ = listener.accept()
        with server:
            assert unixsock.peer(server) == OWN
            unixsock.send(client, b"hello")
            assert unixsock.receive(server) == unixsock.Received(b"hello", (), None)


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_the_mode_is_the_one_asked_for(tmp_path: Path, mode: int) -> None:
    with closing(unixsock.bind(tmp_path / "s", mode=mode)):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    unixsock.bind(path).close()
    with (
        closing(unixsock.bind(path)),
        pytest.raises(StartError, match=f"^cannot listen on {path}: address already in use$"),
    ):
        unixsock.bind(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError, match="exists and is not a socket"):
        unixsock.bind(path)
    assert path.read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"^cannot listen on {tmp_path}/none/s: no such file or directory$"):
        unixsock.bind(tmp_path / "none/s")
    with pytest.raises(FileNotFoundError):
        unixsock.connect(tmp_path / "s")


def test_descriptors_arrive_close_on_exec(pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    left, right = pair
    with (tmp_path / "a").open("w") as first, (tmp_path / "b").open("w") as second:
        unixsock.send(left, b"files", [first.fileno(), second.fileno()])
        received = unixsock.receive(right)
        try:
            assert received.data == b"files"
            assert [os.fstat(fd).st_ino for fd in received.fds] == [
                os.fstat(file.fileno()).st_ino for file in (first, second)
            ]
            assert not any(os.get_inheritable(fd) for fd in received.fds)
        finally:
            for fd in received.fds:
                os.close(fd)


def test_credentials_of_each_message(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    unixsock.pass_credentials(right)
    unixsock.send(left, b"x", [0])
    received = unixsock.receive(right)
    os.close(received.fds[0])
    assert received.credentials == OWN


def test_the_end_is_no_data(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.close()
    assert unixsock.receive(right).data == b""


def test_what_is_too_large_is_refused_and_leaks_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    before = open_files()
    unixsock.send(left, bytes(100), [0, 1])
    with pytest.raises(OSError, match="message larger than allowed"):
        unixsock.receive(right, 10)
    unixsock.send(left, b"x", [0] * 40)
    with pytest.raises(OSError, match="message larger than allowed"):
        unixsock.receive(right, max_fds=2)
    assert open_files() <= before
    unixsock.send(left, b"next")
    assert unixsock.receive(right).data == b"next"


def test_descriptors_without_data_are_not_lost(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    received = unixsock.receive(right)
    assert len(received.fds) == 1
    os.close(received.fds[0])
