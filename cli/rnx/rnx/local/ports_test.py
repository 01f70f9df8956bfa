import os
import socket
import sys
from pathlib import Path

import pytest

from rnx.local import ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rnx local runs on Linux only")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_listener_takes_a_port(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.owner(port) == f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    assert ports.is_free(port)
    assert ports.owner(port) is None


def test_connections_that_ended_do_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # closes first: TIME_WAIT stays with the port
    assert ports.is_free(port)


def test_pick_takes_what_is_free_and_not_taken() -> None:
    first, second = ports.pick(2, 7, ())
    assert len({first, second}) == 2
    assert first not in ports.pick(2, 7, {first})
    with socket.create_server(("127.0.0.1", second)):
        assert second not in ports.pick(2, 7, ())
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert not int(low) <= first <= int(high), "the kernel gives such ports to outgoing connections"


def test_pick_goes_round_and_gives_up() -> None:
    assert ports.pick(1, ports.LAST - ports.FIRST, {ports.LAST})[0] < ports.LAST
    with pytest.raises(OSError, match="no 1 free ports"):
        ports.pick(1, 0, range(ports.FIRST, ports.LAST + 1))
